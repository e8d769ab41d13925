"""Gunicorn's settings for a service of OpenStack; the environment defines the application and its address."""

import os

from oslo_config import cfg

# An environment variable names the configuration file; this disables the search of /etc and the home directory for more.
cfg.find_config_dirs = lambda *_words, **_more: []

wsgi_app = os.environ["WSGI_APPLICATION"]
workers = 1
worker_class = "gthread"
keepalive = 75
timeout = 300
graceful_timeout = 2
