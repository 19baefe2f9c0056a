"""Commit to a SQLite database again and again; print the rates as JSON.

usage: commits.py PATH COMMITS
"""
import json
import sqlite3
import sys
import time

path, n = sys.argv[1], int(sys.argv[2])
db = sqlite3.connect(path, isolation_level=None)
db.execute("PRAGMA synchronous = FULL")
db.execute("CREATE TABLE t (k INTEGER PRIMARY KEY, v BLOB)")
db.execute("BEGIN")
for k in range(5000):
    db.execute("INSERT INTO t VALUES (?, zeroblob(800))", (k,))
db.execute("COMMIT")
marks = []
for k in range(n):
    if k % (n // 10) == 0:
        marks.append(time.monotonic())
    db.execute("UPDATE t SET v = randomblob(800) WHERE k = ?", ((k * 7919) % 5000,))
marks.append(time.monotonic())
tenth = n // 10
print(json.dumps({"First": tenth / (marks[1] - marks[0]), "Last": tenth / (marks[-1] - marks[-2])}))
