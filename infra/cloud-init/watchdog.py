#!/usr/bin/env python3
"""Ends this machine when its lease runs out, and says when AWS will take it back. The standard library only.

    POST /lease    Authorization: Bearer WORD    renews the lease -> {"lease_seconds", "reclaim_at", "rebalance_at"}

Over TLS, by a key that this machine makes for itself and keeps, to nobody but the controller whose certificate it was
told. The SHA-256 of its own it says on the console, which nobody else can write to. Of the word it knows the SHA-256
alone. It asks the metadata service for notices, and writes them down for the engine, whose /healthz says them too.
"""

import hashlib
import hmac
import json
import os
import ssl
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path


class Watchdog:
    """The lease and the notices of one machine."""

    def __init__(self, said):
        self.said = said
        self.notices = {"reclaim_at": None, "rebalance_at": None}
        self.kept = Path(said["kept"])  # gone with a reboot, as the clock is that it is about
        try:
            self.until = float(self.kept.read_text())
        except (OSError, ValueError):
            self.renew()

    def renew(self):
        self.until = time.monotonic() + self.said["lease_seconds"]
        self.kept.write_text(str(self.until))  # whatever ends this process, the lease is no longer for it
        return {"lease_seconds": self.said["lease_seconds"], **self.notices}

    def knows(self, word):
        given = hashlib.sha256(word.encode()).hexdigest()
        return hmac.compare_digest(given, self.said["word_sha256"])

    def watch(self):
        """For ever: notices as they come, and the end when it is due, whatever else fails."""
        while True:
            left = self.until - time.monotonic()
            if left <= 0:
                subprocess.run(self.said["poweroff"], check=False)
            self.look()
            time.sleep(min(self.said["poll_seconds"], max(0.05, left)) if left > 0 else self.said["poll_seconds"])

    def say(self):
        """On the console, again and again: it keeps its last 64 KB, and the kernel writes into everybody's lines."""
        line = f"\nhalve-certificate-sha256 {fingerprint(self.own)}\n".encode()
        while True:
            try:
                with Path(self.said["console"]).open("ab", buffering=0) as console:
                    console.write(line)
            except OSError:
                pass
            time.sleep(self.said["say_seconds"])

    def look(self):
        try:
            asked = urllib.request.Request(f"{self.said['metadata']}/latest/api/token", method="PUT")
            asked.add_header("X-aws-ec2-metadata-token-ttl-seconds", "60")
            token = urllib.request.urlopen(asked, timeout=2).read().decode()
            action = self.read("spot/instance-action", token)
            rebalance = self.read("events/recommendations/rebalance", token)
        except (OSError, ValueError):
            return  # the last notice stays: none is ever taken back
        heard = dict(self.notices)
        if action:
            heard["reclaim_at"] = action.get("time")
        if rebalance:
            heard["rebalance_at"] = rebalance.get("noticeTime")
        if heard != self.notices:
            self.notices = heard
            self.write()

    def write(self):
        notices = Path(self.said["notices"])
        try:
            new = notices.with_suffix(".new")
            new.write_text(json.dumps(self.notices))
            new.replace(notices)
        except OSError:
            pass  # a full disk; the controller asks here, too

    def read(self, path, token):
        asked = urllib.request.Request(f"{self.said['metadata']}/latest/meta-data/{path}")
        asked.add_header("X-aws-ec2-metadata-token", token)
        try:
            return json.loads(urllib.request.urlopen(asked, timeout=2).read())
        except urllib.error.HTTPError as error:
            if error.code == 404:  # nothing is planned
                return None
            raise


def certified(folder):
    """Key and certificate of this machine alone: made at its first start, and kept for as long as it lives."""
    folder.mkdir(parents=True, exist_ok=True)
    key, own, new = folder / "key.pem", folder / "certificate.pem", folder / "certificate.new"
    if not own.exists():
        os.umask(0o077)
        make = [
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ed25519",
            "-nodes",
            "-days",
            "36500",
            "-subj",
            "/CN=halve replica",
        ]
        subprocess.run([*make, "-keyout", str(key), "-out", str(new)], check=True)
        new.replace(own)
    return key, own


def fingerprint(certificate):
    return hashlib.sha256(ssl.PEM_cert_to_DER_cert(certificate.read_text())).hexdigest()


def answers(watchdog):
    class Answers(BaseHTTPRequestHandler):
        timeout = 5

        def do_POST(self):
            scheme, _, word = self.headers.get("Authorization", "").partition(" ")
            if self.path != "/lease":
                return self.say(404, {"error": "POST /lease"})
            if scheme != "Bearer" or not watchdog.knows(word.strip()):
                return self.say(401, {"error": "who are you?"})
            return self.say(200, watchdog.renew())

        def say(self, status, what):
            body = json.dumps(what).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    return Answers


class Server(ThreadingHTTPServer):
    """Each client has a thread of its own, its handshake included."""

    daemon_threads = True

    def __init__(self, watchdog, key, own):
        self.tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.tls.minimum_version = ssl.TLSVersion.TLSv1_3
        self.tls.load_cert_chain(own, key)
        self.tls.load_verify_locations(cadata=watchdog.said["controller"])
        self.tls.verify_mode = ssl.CERT_REQUIRED
        super().__init__((watchdog.said["address"], watchdog.said["port"]), answers(watchdog))

    def finish_request(self, request, address):
        request.settimeout(5)
        with self.tls.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, address)

    def handle_error(self, *_):
        pass  # a stranger at the door


def listen(watchdog):
    """For ever. What cannot listen is never asked, and ends when its first lease does."""
    while True:
        try:
            key, watchdog.own = certified(Path(watchdog.said["tls"]))
            server = Server(watchdog, key, watchdog.own)
            threading.Thread(target=watchdog.say, daemon=True).start()
            return server.serve_forever()
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            sys.stderr.write(f"halve: the watchdog cannot listen: {error}\n")
            time.sleep(5)


def main():
    watchdog = Watchdog(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
    threading.Thread(target=listen, args=(watchdog,), daemon=True).start()
    watchdog.watch()  # what ends this ends the process, and systemd starts another


if __name__ == "__main__":
    main()
