"""Write HDF5 datasets and numpy memory maps in place, and verify them.

usage: inplace.py write|verify DIRECTORY ROUNDS

What is to be there after so many rounds follows from the rounds alone.
"""
import os
import sys

import h5py
import numpy

SHAPE = (512, 1024)


def changes(seed, rounds):
    rnd = numpy.random.RandomState(seed)
    for _ in range(rounds):
        row, rows = rnd.randint(SHAPE[0] - 32), rnd.randint(1, 32)
        yield slice(row, row + rows), rnd.random_sample((rows, SHAPE[1]))


def expected(seed, rounds):
    a = numpy.zeros(SHAPE)
    for where, what in changes(seed, rounds):
        a[where] = what
    return a


def write(path, rounds):
    for name, options in {"plain": {}, "chunked": {"chunks": (16, 256)}, "packed": {"chunks": True, "compression": "gzip", "compression_opts": 1}}.items():
        with h5py.File(path + "/" + name + ".h5", "w") as f:
            f.create_dataset("a", data=numpy.zeros(SHAPE), **options)
        for where, what in changes(1, rounds):
            with h5py.File(path + "/" + name + ".h5", "r+") as f:
                f["a"][where] = what
                f["a"].attrs["rows"] = where.stop
                f.flush()
    numpy.save(path + "/m.npy", numpy.zeros(SHAPE))
    m = numpy.load(path + "/m.npy", mmap_mode="r+")
    other = numpy.load(path + "/m.npy", mmap_mode="r")
    for where, what in changes(2, rounds):
        m[where] = what
        assert (other[where] == what).all(), "another map of the file does not show it"
        m.flush()
    fd = os.open(path + "/m.npy", os.O_RDONLY)
    tail = os.pread(fd, 8 * SHAPE[1], os.fstat(fd).st_size - 8 * SHAPE[1])
    assert tail == m[-1].tobytes(), "read(2) does not show what the map does"


def verify(path, rounds):
    for name in "plain", "chunked", "packed":
        with h5py.File(path + "/" + name + ".h5", "r") as f:
            assert (f["a"][:] == expected(1, rounds)).all(), name
    assert (numpy.load(path + "/m.npy", mmap_mode="r") == expected(2, rounds)).all(), "m.npy, mapped"
    assert (numpy.load(path + "/m.npy") == expected(2, rounds)).all(), "m.npy"


os.environ.setdefault("HDF5_USE_FILE_LOCKING", "FALSE" if "/snapshots/" in sys.argv[2] else "TRUE")
{"write": write, "verify": verify}[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
