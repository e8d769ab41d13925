wsgi_app = "keystone.wsgi.api:application"
bind = "@HOST@:5000"
workers = 1
worker_class = "gthread"
threads = 8
keepalive = 75
timeout = 300
graceful_timeout = 2
