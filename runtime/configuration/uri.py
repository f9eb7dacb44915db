"""Source and sink URIs: scheme, path, options, and how they are shown without passwords."""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import unquote

from dskd.runtime.errors import CallError, one_line

_HARMLESS = re.compile(r"(?:width|height|fps|size|seed|exposure|gain|flip)=[0-9.x]{1,12}", re.ASCII)
_OWN = ("csi", "v4l2", "gige", "test")  # whose options are this product's, and no secrets
_HOST = re.compile(r"(?:\[[0-9A-Fa-f:.]+\]|[\w. -]*)(?::\d{1,5})?")
_SEGMENT = re.compile(r"[\w.~:+,-]*")
_CODEC = re.compile(r"codec=(?:h264|h265|other)")
_LOGIN_IN_PATH = re.compile(r"[^/]*:.*@")
_FILES = ("file", "folder", "watch")


def uri_scheme(uri: str) -> str:
    """What stands before ``://``, empty where there is none."""
    return uri.partition("://")[0].lower() if "://" in uri else ""


def uri_path(uri: str) -> Path:
    """The path in a URI; ``file://clip.mp4`` is relative, ``file:///clip.mp4`` absolute.

    ``?`` and ``#`` are part of the path, as in a shell. Raises CallError where there is none or it holds a NUL byte.
    """
    path = unquote(uri.partition("://")[2])
    if not path or "\0" in path:
        raise CallError(f"{uri}: names no path; write SCHEME:///absolute/path or SCHEME://relative/path")
    return Path(path)


def without_password(uri: str) -> str:
    """``uri`` as it may be shown: scheme, host, port, path and options known to be harmless, on one line.

    Which part is a secret is not guessed by its name: cameras call it pass, loginpas, auth and what not.
    """
    scheme, mark, rest = uri.partition("://")
    if not mark or scheme.lower() in _FILES:
        path = rest if mark else uri
        login = _LOGIN_IN_PATH.search(path)
        return one_line(f"{scheme + mark if mark else ''}{path if login is None else '***' + path[login.end() - 1 :]}")
    shown = scheme if re.fullmatch(r"[A-Za-z][A-Za-z0-9+.-]{0,31}", scheme) else "***"
    if scheme.lower() == "gst":
        return f"gst://{_first_element(rest)}"
    return f"{shown}://{_shown_address(scheme, rest)}"


def _first_element(pipeline: str) -> str:
    """A pipeline's properties may be anything."""
    found = re.match(r"\s*([A-Za-z][A-Za-z0-9_-]{0,63})(?=\s|!|$)", pipeline)
    return "..." if found is None else f"{found[1]} ..." if pipeline[found.end() :].strip() else found[1]


def _shown_address(scheme: str, rest: str) -> str:
    """What stands behind ``://``, without user, fragment and options that may be secret."""
    behind = rest.rfind("@") + 1
    end = next((k for k, letter in enumerate(rest) if letter in "?#"), len(rest))
    if behind > end:  # a password with ? or #, or an option with @
        return "***"
    host, *path = rest[behind:end].split("/")
    address = host if _HOST.fullmatch(host) else "***"
    for segment in path:
        address += f"/{segment if _SEGMENT.fullmatch(segment) else '***'}"
    query, _, fragment = rest[end:].partition("#")
    if query:
        given = re.split("[&;]", query[1:])
        known = [option for option in given if _shown_option(scheme, option)]
        address += "?" + "&".join(known + ["..."] * (len(known) < len(given)))
    return f"{address}#{fragment}" if _CODEC.fullmatch(fragment) else address


def misplaced_login(uri: str) -> bool:
    """Whether an ``@`` stands behind the host of a network address: a password with ``/``, ``?``, ``#`` or ``@`` in it as it
    is ends the host too early, and what is asked then is another machine. One in a path's options is left alone.
    """
    rest = uri.partition("://")[2]
    host = re.match(r"[^/?#]*", rest)
    behind = rest[host.end() if host else 0 :]
    path, _, fragment = behind.partition("#")
    if path.startswith("/"):
        path = path.partition("?")[0]
    return "@" in path or "@" in fragment


def hidden_in(text: str, uri: str) -> str:
    """What a library said about ``uri``, as it may be shown."""
    for piece in sorted(_secret_parts(uri), key=len, reverse=True):
        text = text.replace(piece, "***")
    return one_line(re.sub(r"://.*", "://...", text, flags=re.DOTALL))


def _secret_parts(uri: str) -> set[str]:
    """Every piece of ``uri`` that must not be shown, as it is written and as it is meant."""
    scheme, _, rest = uri.partition("://")
    pieces = {uri}
    if scheme.lower() == "gst":
        pieces.update(rest.split()[1:], re.split(r"[\s!=\"'@:/]+", rest)[1:])
        pieces.update(
            re.findall(r'=\s*"?([^"]*)"', rest), re.findall(r"'([^']*)'", rest), re.findall(r":([^:]*)@", rest)
        )
        pieces.update(re.findall(r'=([^="]*)"', rest))
    elif "@" in rest:
        user = rest[: rest.rfind("@")]
        pieces.update((user, *user.partition(":")[::2]))
    options = [option for option in re.split("[?&;#]", rest)[1:] if not _shown_option(scheme, option)]
    pieces.update(options, (option.partition("=")[2] for option in options))
    pieces |= {unquote(piece) for piece in pieces}
    return {piece for piece in pieces if piece.strip("!= ")}


def _shown_option(scheme: str, option: str) -> bool:
    return scheme.lower() in _OWN and _HARMLESS.fullmatch(option) is not None
