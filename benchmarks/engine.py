"""Round trips of the C engine alone: compiles and runs engine.c, which says what it prints."""

import os
import subprocess
import tempfile
from pathlib import Path


def main() -> None:
    source = Path(__file__).with_name("engine.c")
    compiler = os.environ.get("CC", "cc").split()
    with tempfile.TemporaryDirectory() as folder:
        program = Path(folder, "engine")
        command = [*compiler, "-std=c11", "-O2", str(source), "-o", str(program), "-lm"]
        subprocess.run(command, check=True)
        subprocess.run([str(program)], check=True)


if __name__ == "__main__":
    main()
