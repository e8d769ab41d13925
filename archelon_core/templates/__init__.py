"""Text templates, rendered in a child process with limits on time and memory."""
