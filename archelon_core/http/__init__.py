"""Serving WSGI applications under gunicorn, the admin port, the request log, and guarded fetches."""
