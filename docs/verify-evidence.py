#!/usr/bin/env python3
"""Checks evidence of drills without Tidegate: signatures, links and the head.

    verify-evidence.py --key PUBLIC.pem [--key ...] [--head HASH] FILE|DIRECTORY...

It needs Python's standard library and the openssl command (3.0 or later), and nothing
else; the format is formats/evidence.md. It ends with 0 when all is as it must be, with
9 when something is not, which it names, and with 2 when it was called wrongly.
Directories are searched for *.dsse.json; of each service in them the chain must begin
with report 1. Files are taken in the order given, and may be a part of a chain.
"""
import argparse
import base64
import hashlib
import json
import os
import subprocess
import sys
import tempfile

TYPE = "application/vnd.tidegate.drill+json"


def openssl(*args):
    return subprocess.run(["openssl", *args], capture_output=True)


def key_id(path):
    """The SHA-256 of a public key's DER form; only Ed25519 will do."""
    text = openssl("pkey", "-pubin", "-in", path, "-noout", "-text")
    der = openssl("pkey", "-pubin", "-in", path, "-outform", "DER")
    if der.returncode != 0 or b"ED25519" not in text.stdout.upper():
        print(f"{path}: no Ed25519 public key in PEM form", file=sys.stderr)
        sys.exit(2)
    return hashlib.sha256(der.stdout).hexdigest()


def signed(key, payload, signature):
    """Whether signature is the key's, of what DSSE has it sign (its PAE)."""
    kind = TYPE.encode()
    message = b"DSSEv1 %d %b %d %b" % (len(kind), kind, len(payload), payload)
    with tempfile.TemporaryDirectory() as tmp:
        for name, data in (("message", message), ("signature", signature)):
            with open(os.path.join(tmp, name), "wb") as f:
                f.write(data)
        return openssl("pkeyutl", "-verify", "-rawin", "-pubin", "-inkey", key,
                       "-in", os.path.join(tmp, "message"),
                       "-sigfile", os.path.join(tmp, "signature")).returncode == 0


def read(path, keys):
    """The report of an envelope, what is wrong with it, and the hash that the next names."""
    with open(path, "rb") as f:
        envelope = json.load(f)
    if envelope["payloadType"] != TYPE:
        raise ValueError("payload of another type")
    payload = base64.b64decode(envelope["payload"], validate=True)
    named = [s.get("keyid", "") for s in envelope["signatures"]]
    wrong = None
    if not any(s.get("keyid", "") in (i, "") and signed(key, payload, base64.b64decode(s["sig"], validate=True))
               for s in envelope["signatures"] for i, key in keys.items()):
        known = not named or any(i in keys or i == "" for i in named)
        wrong = "tampered" if known else "wrong key: signed with " + named[0]
    try:
        report = json.loads(payload)
        report = {k: report[k] for k in ("format", "version", "service", "number", "previous")}
        if report["format"] != "tidegate drill report" or report["version"] != 1:
            raise ValueError("no drill report of version 1")
    except (ValueError, KeyError, TypeError) as e:
        raise ValueError(wrong or f"no report: {e}") from e
    return report, wrong, hashlib.sha256(payload).hexdigest()


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--key", action="append", required=True, help="public key, PEM; may be said more than once")
    parser.add_argument("--head", action="append", default=[], help="hash that was noted outside")
    parser.add_argument("path", nargs="+")
    args = parser.parse_args()
    keys = {key_id(k): k for k in args.key}
    found, chains, whole, paths = [], {}, False, []
    for path in args.path:
        if os.path.isdir(path):
            whole = True
            walk = os.walk(path, onerror=lambda e: found.append(f"{e.filename}: {e.strerror}"))
            paths += sorted(os.path.join(d, f) for d, _, files in walk for f in files if f.endswith(".dsse.json"))
        else:
            paths.append(path)
    for path in paths:
        try:
            report, wrong, digest = read(path, keys)
        except (OSError, ValueError, KeyError, TypeError) as e:
            found.append(f"{path}: {e}")
            continue
        if wrong:
            found.append(f"{path}: {wrong}")
        chains.setdefault(report["service"], []).append((report["number"], report["previous"], digest, path, wrong))
    for service, chain in chains.items():
        for (number, _, _, path, _), (before, *_) in zip(chain[1:], chain):
            if number < before:
                found.append(f"{path}: reordered: report {number} stands behind report {before}")
        for number, _, _, path, _ in chain:
            name = os.path.basename(path).removesuffix(".dsse.json")
            if name.isdigit() and int(name) != number:
                found.append(f"{path}: reordered: it holds report {number}")
            parts = os.path.abspath(path).split(os.sep)
            if parts[-3:-2] == ["drills"] and name.isdigit() and parts[-2] != service:
                found.append(f"{path}: reordered: it holds a report of {service}")
        chain.sort(key=lambda c: c[0])
        if chain[0][0] == 1 and chain[0][1] is not None or whole and chain[0][0] != 1:
            found.append(f"{service}: missing link: it does not begin with report 1")
        for (before, _, digest, _, bad), (number, previous, _, path, _) in zip(chain, chain[1:]):
            if number == before:
                found.append(f"{path}: forked: there are two reports {number}")
            elif number > before + 1:
                found.append(f"{service}: missing link: reports {before + 1} to {number - 1}")
            elif previous != digest and not bad:
                found.append(f"{path}: forked: it follows {previous}, and report {before} is {digest}")
        print(f"{service}: reports {chain[0][0]} to {chain[-1][0]}, head {chain[-1][2]}")
    for head in args.head:
        if not any(head == digest for chain in chains.values() for _, _, digest, _, _ in chain):
            found.append(f"truncated: no report has the hash {head}")
    if not paths:
        found.append("there is no evidence")
    for line in found or ["all signatures and links are sound"]:
        print(line)
    return 9 if found else 0


if __name__ == "__main__":
    sys.exit(main())
