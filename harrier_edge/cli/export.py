"""`harrier-edge export`: a checkpoint becomes a model package."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import ModuleType

from harrier_edge.cli.common import Progress, byte_size, to_json
from harrier_edge.errors import ExportError

HELP = "turn a Hugging Face checkpoint into a quantized ONNX package"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the arguments."""
    parser.add_argument("checkpoint", type=Path, help="folder with config.json and safetensors")
    parser.add_argument("-o", "--output", type=Path, required=True, metavar="FOLDER")
    parser.add_argument(
        "--precision",
        default="int8",
        help="fp32, int8 (default), int8-block or int4; of a BitNet fp32, int8 or ternary",
    )
    parser.add_argument("--block-size", type=int, metavar="N", help="weights that share a scale")
    parser.add_argument(
        "--asymmetric",
        action=argparse.BooleanOptionalAction,
        help="a zero point for each block, too (default: at 4 bits)",
    )
    parser.add_argument(
        "--embedding",
        metavar="PRECISION",
        help="of the embedding table: fp32, int8, int7, int6, int5, int4 (default: int8; if it is "
        "large and most of the model, int7 for an int8 package and int6 for int4)",
    )
    parser.add_argument("--embedding-block-size", type=int, default=32, metavar="N")
    parser.add_argument(
        "--calibration",
        type=Path,
        metavar="FILE",
        help="texts to calibrate int8 and int4 on, between lines of %%%% (default: built in)",
    )
    parser.add_argument(
        "--model", help="hold the checkpoint to this model of the catalogue: hashes, shape, prompts"
    )
    parser.add_argument(
        "--calibrate",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="round int8 and int4 weights by real text (default); without, in less memory and time",
    )
    parser.add_argument(
        "--via",
        choices=["optimum"],
        help="take any sentence-transformers model: optimum traces it (fp32 and int8)",
    )
    parser.add_argument(
        "--max-file-size",
        type=byte_size,
        metavar="SIZE",
        help="of a file of weights, like 500MB (default: 2GB)",
    )
    parser.add_argument(
        "--memory",
        type=byte_size,
        metavar="SIZE",
        help="that calibrating may take, like 16GB (default: what is free)",
    )
    parser.add_argument("--name", help="the package's name (default: the model's or the folder's)")
    verify_option(parser)
    parser.add_argument(
        "--allow-poor", action="store_true", help="keep a package under its precision's floor"
    )
    parser.add_argument("--overwrite", action="store_true", help="replace the package at FOLDER")
    parser.add_argument("--json", action="store_true", help="print the manifest as JSON")


def verify_option(parser: argparse.ArgumentParser) -> None:
    """`--verify`."""
    parser.add_argument(
        "--verify",
        action=argparse.BooleanOptionalAction,
        help="measure parity against transformers (default: if harrier-edge[verify] is installed); "
        "with --no-verify the package is not run at all",
    )


def exporter() -> ModuleType:
    """The export pipeline, an extra and heavy. Raises ExportError where it is not installed."""
    try:
        import harrier_export
    except ImportError as error:
        raise ExportError(
            f"exporting needs {error.name}, which is not installed. "
            "Install it with: pip install 'harrier-edge[export]'"
        ) from error
    return harrier_export


def run(args: argparse.Namespace) -> int:
    """Export and report."""
    import msgspec

    harrier_export = exporter()
    sizes = {"max_file_bytes": args.max_file_size} if args.max_file_size else {}
    with Progress(args.quiet) as progress:
        export = harrier_export.export_via_optimum if args.via else harrier_export.export
        result = export(
            args.checkpoint,
            args.output,
            harrier_export.ExportOptions(
                precision=args.precision,
                block_size=args.block_size,
                asymmetric=args.asymmetric,
                embedding=args.embedding,
                embedding_block_size=args.embedding_block_size,
                model=args.model,
                name=args.name,
                verify=args.verify,
                allow_poor=args.allow_poor,
                overwrite=args.overwrite,
                calibration=args.calibration,
                calibrate=args.calibrate,
                memory_bytes=args.memory,
                **sizes,
            ),
            progress,
        )
    manifest = result.manifest
    if result.tokenizer_repaired:
        print("repaired the tokenizer: it now ends inputs with the final token", file=sys.stderr)
    if args.json:
        table = {"folder": str(result.folder), **msgspec.to_builtins(manifest)}
        print(to_json(table))
        return 0
    size = sum(file.size for file in manifest.files.values())
    print(f"{result.folder}: {manifest.name} in {manifest.precision.name}, {size / 1e6:.0f} MB")
    print(f"  linear layers  {manifest.precision.linear}")
    print(f"  embeddings     {manifest.precision.embedding}")
    if parity := manifest.parity:
        print(
            f"  parity         cosine {parity.mean_cosine:.6f} mean, {parity.min_cosine:.6f} "
            f"minimum over {parity.texts} texts, to {parity.reference}"
        )
    else:
        why = "install harrier-edge[verify] to measure it" if args.verify is None else "--no-verify"
        print(f"  parity         not measured ({why})")
    return 0
