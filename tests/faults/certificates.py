"""Certificates of a test's own authorities, made with openssl; each file has its key in it too."""

import itertools
import subprocess
from pathlib import Path

NEW_KEY = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
SERIALS = itertools.count(1)


def self_signed(file: Path, host: str = "127.0.0.1") -> Path:
    """An authority's certificate, or that of a host that nobody vouches for."""
    key = file.with_suffix(".key")
    made = ["req", "-x509", *NEW_KEY, "-subj", f"/CN={file.stem}", "-keyout", key, "-out", file]
    _openssl(*made, "-addext", f"subjectAltName=IP:{host}", "-days", "2")
    return _joined(file, key)


def signed(file: Path, authority: Path, names: str = "IP:127.0.0.1", days: int = 2) -> Path:
    """A host's certificate, vouched for by an authority. Of less than no days: it has expired."""
    key, request, extensions = (file.with_suffix(end) for end in (".key", ".csr", ".names"))
    _openssl("req", *NEW_KEY, "-subj", f"/CN={file.stem}", "-keyout", key, "-out", request)
    extensions.write_text(f"subjectAltName={names}")
    signing = ["-CA", authority, "-CAkey", authority, "-set_serial", str(next(SERIALS))]
    made = ["x509", "-req", "-in", request, *signing, "-days", str(days), "-out", file]
    _openssl(*made, "-extfile", extensions)
    return _joined(file, key)


def _joined(file: Path, key: Path) -> Path:
    file.write_text(file.read_text() + key.read_text())
    return file


def _openssl(*arguments: object) -> None:
    subprocess.run(["openssl", *map(str, arguments)], check=True, capture_output=True)
