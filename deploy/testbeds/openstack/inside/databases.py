"""databases.py SOCKET PASSWORD NAME…: waits for MariaDB, and creates the user and the databases, unless they exist."""

import sys
import time

import pymysql

socket, password, *names = sys.argv[1:]


def connect(seconds=120.0):
    """Return a connection once the server accepts one."""
    deadline = time.monotonic() + seconds
    while True:
        try:
            return pymysql.connect(unix_socket=socket, user="root")
        except pymysql.err.OperationalError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


with connect() as connection, connection.cursor() as cursor:
    cursor.execute("CREATE USER IF NOT EXISTS 'testbed'@'%%' IDENTIFIED BY %s", (password,))
    cursor.execute("GRANT ALL ON *.* TO 'testbed'@'%'")
    for name in names:
        cursor.execute(f"CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb3")
