"""Gunicorn's settings for a service of OpenStack; the environment says which application, and where it listens."""

import os

from oslo_config import cfg

# The service finds its file by an environment variable, but would look through /etc and the home for more beside it.
cfg.find_config_dirs = lambda *_words, **_more: []

wsgi_app = os.environ["WSGI_APPLICATION"]
workers = 1
worker_class = "gthread"
keepalive = 75
timeout = 300
graceful_timeout = 2
