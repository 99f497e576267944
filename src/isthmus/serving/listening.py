"""The socket that a server listens on."""

from socket import AF_INET, AF_INET6, create_server, socket

from isthmus.errors import InputError


def listen(host: str, port: int, *, backlog: int = 2048) -> socket:
    """A socket that listens; port 0 takes a free one.

    Raises:
        InputError: the address cannot be used.
    """
    try:
        return create_server((host, port), family=AF_INET6 if ":" in host else AF_INET, backlog=backlog)
    except (OSError, OverflowError) as error:
        raise InputError(f"--host {host} --port {port}: cannot listen there ({error})") from error


def address(host: str, port: int) -> str:
    """Where what listens is found."""
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"
