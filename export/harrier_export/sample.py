"""What a package gives for one text, noted where it is made, for `harrier-edge doctor`."""

from __future__ import annotations

import base64
import logging
import subprocess
import sys
from pathlib import Path

from harrier_edge.isolation import python_command
from harrier_edge.package import MODEL, TOKENIZER
from harrier_edge.session import Session
from harrier_edge.spec import MANIFEST_NAME, PackageManifest, Sample, read_table
from harrier_edge.tokens import Tokenizer

logger = logging.getLogger(__name__)

# Several scripts, digits and signs; long enough for every layer to have something to do.
TEXT = (
    "Below the ridge a harrier quarters the reeds at dusk. Sie fliegt niedrig und langsam. "
    "草原の上を鷹が飛ぶ。 Над рекой туман, 3,5 °C. ماء بارد. def f(x): return x ** 2"
)


def take_sample(package: Path) -> Sample | None:
    """Embed a text with the package in the folder `package`; None, logged, where that fails.

    In a process of its own: an export needs far less memory than the model that it writes, and
    goes well where there is not enough to run it.
    """
    command = python_command(f"from {__name__} import main; main()", str(package))
    run = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, check=False)
    if run.returncode:
        told = run.stderr.decode("utf-8", "replace").strip().splitlines() or ["no message"]
        logger.warning(
            "the package could not be run here (%s), so its manifest has no sample", told[-1]
        )
        return None
    return Sample(text=TEXT, vector=base64.b64encode(run.stdout).decode())


def main() -> None:
    """Print the vector's bytes."""
    folder = Path(sys.argv[1])
    manifest = read_table(folder / MANIFEST_NAME, PackageManifest)
    tokenizer = Tokenizer(
        folder / TOKENIZER,
        final_token=manifest.tokens.final,
        max_tokens=manifest.tokens.max_tokens,
    )
    session = Session(folder / MODEL, dimension=manifest.dimension, pad_token=manifest.tokens.pad)
    vector = session.run([text.ids for text in tokenizer.encode([TEXT])])
    sys.stdout.buffer.write(vector.astype("<f4").tobytes())
