"""Real receivers of alerts on this machine: over HTTP, and over SMTP with STARTTLS and AUTH."""

import base64
import datetime
import http.server
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from email import message_from_bytes, policy
from email.message import EmailMessage
from ipaddress import ip_address
from pathlib import Path
from typing import Any


class Receiver:
    """An HTTP server. `answers` are the statuses it gives next, 200 after them; `gate`, while it
    is cleared, keeps it from answering."""

    def __init__(self) -> None:
        self.answers: list[int] = []
        self.got: list[tuple[str, dict[str, str], bytes]] = []
        self.gate = threading.Event()
        self.gate.set()
        receiver = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver.gate.wait(60)
                headers = {name.lower(): value for name, value in self.headers.items()}
                status = receiver.answers.pop(0) if receiver.answers else 200
                receiver.got.append((self.path, headers, body))
                self.send_response(status)
                if status == 302:
                    self.send_header("location", "/elsewhere")
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *told: Any) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"


@contextmanager
def http_receiver() -> Iterator[Receiver]:
    receiver = Receiver()
    with served(receiver.server):
        yield receiver


@contextmanager
def served(server: socketserver.BaseServer) -> Iterator[None]:
    thread = threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Mailbox(socketserver.ThreadingTCPServer):
    """As much of an SMTP server as a client needs. `login` is the only user and password it
    takes; with it, mail is refused to who has not logged in under TLS."""

    daemon_threads = True

    def __init__(self, tls: ssl.SSLContext | None = None, login: tuple[str, str] | None = None):
        super().__init__(("127.0.0.1", 0), _Conversation)
        self.tls = tls
        self.login = login
        self.mails: list[EmailMessage] = []
        self.refuses: str | None = None
        self.port: int = self.server_address[1]


class _Conversation(socketserver.StreamRequestHandler):
    server: Mailbox

    def handle(self) -> None:
        self.encrypted = self.known = False
        self.say("220 here")
        while line := self.rfile.readline().decode().strip():
            verb, _, rest = line.partition(" ")
            if verb.upper() == "QUIT":
                self.say("221 bye")
                return
            getattr(self, f"do_{verb.lower()}", self.unknown)(rest)

    def say(self, *lines: str) -> None:
        self.wfile.write("".join(f"{line}\r\n" for line in lines).encode())
        self.wfile.flush()

    def unknown(self, rest: str) -> None:
        self.say("502 what?")

    def do_ehlo(self, rest: str) -> None:
        tls = ["250-STARTTLS"] if self.server.tls and not self.encrypted else []
        auth = ["250-AUTH PLAIN"] if self.encrypted else []
        self.say("250-here", *tls, *auth, "250 HELP")

    def do_starttls(self, rest: str) -> None:
        assert self.server.tls is not None
        self.say("220 go on")
        self.connection = self.server.tls.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb")
        self.encrypted = True

    def do_auth(self, rest: str) -> None:
        _, user, password = base64.b64decode(rest.split()[1]).decode().split("\0")
        self.known = (user, password) == self.server.login
        self.say("235 ok" if self.known else "535 5.7.8 no")

    def do_mail(self, rest: str) -> None:
        if self.server.login is not None and not self.known:
            self.say("530 5.7.0 log in first")
        else:
            self.say("250 ok")

    def do_rcpt(self, rest: str) -> None:
        self.say("250 ok" if self.server.refuses is None else self.server.refuses)

    def do_rset(self, rest: str) -> None:
        self.say("250 ok")

    def do_data(self, rest: str) -> None:
        self.say("354 go on")
        lines = []
        while (line := self.rfile.readline()) != b".\r\n":
            lines.append(line.removeprefix(b"."))
        mail = message_from_bytes(b"".join(lines), policy=policy.default)
        assert isinstance(mail, EmailMessage)
        self.server.mails.append(mail)
        self.say("250 ok")


def certificate(folder: Path) -> tuple[ssl.SSLContext, Path]:
    """A server's TLS for 127.0.0.1, and the file that lets clients trust it."""
    from cryptography import x509
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "mail")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    trusted, private = folder / "trusted.pem", folder / "private.pem"
    trusted.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(trusted, private)
    return context, trusted
