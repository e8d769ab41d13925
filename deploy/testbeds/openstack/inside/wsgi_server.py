"""Gunicorn's settings for a service of OpenStack; the environment says which application, and where it listens."""

import os

wsgi_app = os.environ["WSGI_APPLICATION"]
workers = 1
worker_class = "gthread"
threads = 8
keepalive = 75
timeout = 300
graceful_timeout = 2
