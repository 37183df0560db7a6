"""The C engine alone: tests/c/test_sync.c, compiled here in several ways, has the checks."""

import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SYNC = ROOT / "src" / "shoal" / "vectorization" / "c" / "sync.c"
CC = os.environ.get("CC", "cc").split()
CXX = os.environ.get("CXX", "c++").split()
WARNINGS = ["-Wall", "-Wextra", "-Werror"]

BUILDS = {
    "plain": ["-O2"],
    "no futex": ["-O2", "-DSHOAL_NO_FUTEX"],
    "checks": ["-O2", "-DSHOAL_CHECKS"],
    "tsan": ["-O1", "-fsanitize=thread"],
    "asan": ["-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"],
}


def run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, timeout=290)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def program(tmp_path_factory):
    """A function that compiles the test program in the way of that name, once."""
    folder = tmp_path_factory.mktemp("sync")
    done = {}

    def compile_it(build: str) -> str:
        if build not in done:
            path = folder / build.replace(" ", "_")
            source = str(ROOT / "tests" / "c" / "test_sync.c")
            flags = ["-std=c11", "-g", *WARNINGS, "-Wno-missing-field-initializers"]
            run([*CC, *flags, *BUILDS[build], source, "-pthread", "-o", str(path)])
            done[build] = str(path)
        return done[build]

    return compile_it


@pytest.mark.parametrize("mode", ["threads", "fork", "crash", "wakes", "orphans"])
def test_stress(program, mode):
    rows = 30_000 if mode == "crash" else 80_000
    print(run([program("checks"), mode, "1", str(rows)]))


@pytest.mark.parametrize("mode", ["threads", "fork", "wakes", "orphans"])
def test_stress_without_futex(program, mode):
    print(run([program("no futex"), mode, "2", "20000"]))


BROKEN = """
#include "sync.c"
static _Alignas(128) unsigned char memory[1 << 16];

int main(int count, char **arguments) {
    (void)count;
    shoal_config config = {1, 2, 2, 3, SHOAL_FIRST, 0, 0, 0};
    shoal_parent parent;
    shoal_worker worker;
    uint64_t entry;
    uint32_t block, place;
    if (shoal_size(&config) > sizeof memory)
        return 2;
    shoal_init(memory, &config);
    shoal_parent_attach(&parent, memory);
    shoal_worker_attach(&worker, memory, 0);
    shoal_post(&parent, NULL, 2, 0);
    for (int i = 0; i < 2; i++) {
        shoal_next(&worker, &entry);
        place = shoal_claim(&worker, entry);
        shoal_complete(&worker, place);
    }
    switch (arguments[1][0]) {
    case 'c': /* a row is completed twice */
        shoal_complete(&worker, place);
        break;
    case 'p': /* a row past the last one */
        shoal_complete(&worker, 6);
        break;
    case 'r': /* a block that nobody waited for: a row is missing again */
        atomic_fetch_add(&parent.sync.blocks[0].remaining, 1);
        receive(&parent, &block);
        break;
    case 's': /* two rows of one environment */
        atomic_store(&parent.sync.slots[1], atomic_load(&parent.sync.slots[0]));
        receive(&parent, &block);
        break;
    case 'l': /* a place of another lap */
        atomic_fetch_add(&parent.sync.slots[0], (uint64_t)1 << 32);
        receive(&parent, &block);
        break;
    case 'a': /* the cursor has run ahead of free places */
        atomic_fetch_add(&parent.sync.header->cursor, (uint64_t)2 << 32);
        take_place(&parent.sync, 0);
        break;
    case 'h': /* after a death, a row whose worker has not got past its entry */
        shoal_bury(&parent, 0);
        atomic_fetch_sub(&parent.sync.lines[0].head, 1);
        receive(&parent, &block);
        break;
    case 'w': /* a counter that is still wrong when all blocks have been received */
        shoal_bury(&parent, 0);
        parent.recovering = 1;
        atomic_fetch_sub(&parent.sync.blocks[1].remaining, 3);
        receive(&parent, &block);
        break;
    default: /* all in order */
        return receive(&parent, &block) == SHOAL_OK ? 0 : 3;
    }
    return 0;
}
"""


@pytest.mark.parametrize(
    ("violation", "said"),
    [
        ("none", None),
        ("complete", "before >= rows"),
        ("past", "block < sync->config.num_blocks"),
        ("remaining", "remaining"),
        ("same", "state != SHOAL_IDLE"),
        ("lap", "parent->lap"),
        ("ahead", "since(slot, lap - 1) >= 0"),
        ("head", "is_done"),
        ("wrong", "remaining, relaxed) <= size"),
    ],
)
def test_a_planted_violation_is_noticed(violation, said, tmp_path):
    (tmp_path / "broken.c").write_text(BROKEN)
    program = str(tmp_path / "broken")
    command = [*CC, "-std=c11", "-DSHOAL_CHECKS", f"-I{SYNC.parent}", str(tmp_path / "broken.c")]
    run([*command, "-pthread", "-o", program])
    done = subprocess.run([program, violation], capture_output=True, text=True, timeout=60)
    assert (done.returncode == 0) == (said is None), done.stderr
    assert said is None or ("broken invariant" in done.stderr and said in done.stderr)


# (build, mode, seed, rows): 32 million rows in all.
LONG = [
    *[("plain", mode, seed, 4_000_000) for mode in ("threads", "fork") for seed in (10, 11, 12)],
    *[("plain", "crash", seed, 1_000_000) for seed in (20, 21)],
    *[("no futex", mode, 30, 1_000_000) for mode in ("threads", "fork")],
    ("no futex", "crash", 31, 300_000),
    ("tsan", "threads", 40, 2_000_000),
    ("asan", "threads", 50, 1_000_000),
    ("asan", "fork", 51, 1_000_000),
    ("asan", "crash", 52, 300_000),
    ("asan", "wakes", 53, 1),
    ("asan", "orphans", 54, 1),
]


@pytest.mark.slow
@pytest.mark.parametrize(("build", "mode", "seed", "rows"), LONG)
def test_long_stress(program, build, mode, seed, rows):
    print(run([program(build), mode, str(seed), str(rows)]))


def test_it_is_strict_c11():
    run([*CC, "-std=c11", "-pedantic", "-Wconversion", *WARNINGS, "-fsyntax-only", str(SYNC)])


def test_it_is_cpp_too():
    if not shutil.which(CXX[0]):
        pytest.skip("no C++ compiler")
    run([*CXX, "-x", "c++", "-std=c++17", *WARNINGS, "-fsyntax-only", str(SYNC)])


def test_it_has_no_global_state(tmp_path):
    if not shutil.which("nm"):
        pytest.skip("no nm")
    run([*CC, "-std=c11", "-O2", "-c", str(SYNC), "-o", str(tmp_path / "sync.o")])
    symbols = [line.split() for line in run(["nm", str(tmp_path / "sync.o")]).splitlines()]
    assert [s for s in symbols if s[-2] in "bBdDC"] == []
    undefined = {s[-1].strip("_") for s in symbols if s[-2] == "U"}
    assert not undefined & {"malloc", "calloc", "realloc", "rand", "random", "time"}
