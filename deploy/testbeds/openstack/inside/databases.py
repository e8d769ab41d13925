"""databases.py SOCKET PASSWORD NAME…: wait for MariaDB, make the user and the databases that are not there."""

import sys
import time

import pymysql

socket, password, *names = sys.argv[1:]


def connect(seconds=120.0):
    """A connection, as soon as the server takes one."""
    until = time.monotonic() + seconds
    while True:
        try:
            return pymysql.connect(unix_socket=socket, user="root")
        except pymysql.err.OperationalError:
            if time.monotonic() > until:
                raise
            time.sleep(0.1)


with connect() as connection, connection.cursor() as cursor:
    cursor.execute("CREATE USER IF NOT EXISTS 'testbed'@'%%' IDENTIFIED BY %s", (password,))
    cursor.execute("GRANT ALL ON *.* TO 'testbed'@'%'")
    for name in names:
        cursor.execute(f"CREATE DATABASE IF NOT EXISTS {name} CHARACTER SET utf8mb3")
