"""Move money between accounts of a SQLite database, from many processes.

usage: sqlite.py create PATH JOURNAL_MODE
       sqlite.py run PATH PROCESSES TRANSACTIONS
       sqlite.py check PATH      prints as JSON: integrity, sum, moves, torn
"""
import json
import multiprocessing
import random
import sqlite3
import sys
import zlib

ACCOUNTS = 500


def connect(path):
    db = sqlite3.connect(path, timeout=120, isolation_level=None)
    db.execute("PRAGMA synchronous = FULL")
    return db


def move(path, who, n):
    rnd = random.Random(who)
    db = connect(path)
    for k in range(n):
        a, b, amount = rnd.randrange(ACCOUNTS), rnd.randrange(ACCOUNTS), rnd.randrange(100)
        note = rnd.randbytes(rnd.randrange(3000))
        db.execute("BEGIN IMMEDIATE")
        db.execute("UPDATE account SET money = money - ? WHERE id = ?", (amount, a))
        db.execute("UPDATE account SET money = money + ? WHERE id = ?", (amount, b))
        db.execute("INSERT INTO move VALUES (?, ?, ?, ?)", (who, k, note, zlib.crc32(note)))
        db.execute("COMMIT")
        if k % 50 == 49:
            db.execute("DELETE FROM move WHERE who = ? AND k % 3 = 1 AND k < ?", (who, k))
        if k % 10 == 0:  # a reader among writers sees whole transactions
            total = db.execute("SELECT sum(money) FROM account").fetchone()[0]
            assert total == ACCOUNTS * 1000, total
    db.close()


def create(path, mode):
    db = connect(path)
    assert db.execute("PRAGMA journal_mode = " + mode).fetchone()[0] == mode
    db.execute("CREATE TABLE account (id INTEGER PRIMARY KEY, money INTEGER)")
    db.execute("CREATE TABLE move (who INTEGER, k INTEGER, note BLOB, crc INTEGER, PRIMARY KEY (who, k))")
    db.execute("BEGIN")
    db.executemany("INSERT INTO account VALUES (?, 1000)", [(i,) for i in range(ACCOUNTS)])
    db.execute("COMMIT")
    db.close()


def run(path, processes, n):
    all = [multiprocessing.Process(target=move, args=(path, i, n)) for i in range(processes)]
    for p in all:
        p.start()
    for p in all:
        p.join()
    sys.exit(any(p.exitcode for p in all))


def check(path):
    db = connect(path)
    print(json.dumps({
        "integrity": db.execute("PRAGMA integrity_check").fetchone()[0],
        "sum": db.execute("SELECT sum(money) FROM account").fetchone()[0],
        "moves": db.execute("SELECT sum(last + 1) FROM (SELECT max(k) AS last FROM move GROUP BY who)").fetchone()[0] or 0,
        "torn": sum(zlib.crc32(note) != crc for note, crc in db.execute("SELECT note, crc FROM move")),
    }))


if sys.argv[1] == "create":
    create(sys.argv[2], sys.argv[3])
elif sys.argv[1] == "run":
    run(sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
else:
    check(sys.argv[2])
