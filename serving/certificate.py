"""A certificate that is renewed where it lies: new connections get the new one, and no door starts anew."""

import logging
import os
import ssl

log = logging.getLogger("ray.serve")


class Renewal:
    """Looks whether the files of a certificate and its key have changed."""

    def __init__(self, certificate: str, key: str | None) -> None:
        """Both are PEM files that have been loaded; without `key` the certificate's file holds it."""
        self._certificate, self._key = certificate, key
        self._known = self._stamp()

    def check(self, context: ssl.SSLContext) -> bool:
        """Load what has changed into the context; whether it did. A pair that does not fit together changes nothing:
        it is told in the log, and the one before stays (a renewal writes one file after the other)."""
        stamp = self._stamp()
        if stamp is None or stamp == self._known:
            return False
        self._known = stamp
        try:
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(self._certificate, self._key)
            context.load_cert_chain(self._certificate, self._key)
        except (OSError, ssl.SSLError) as error:
            log.error("%s has changed and cannot be loaded, the one before stays: %s", self._certificate, error)
            return False
        log.info("%s is loaded anew", self._certificate)
        return True

    def _stamp(self) -> tuple[tuple[int, int, int], ...] | None:
        try:
            found = [os.stat(path) for path in (self._certificate, self._key) if path is not None]
        except OSError:
            return None
        return tuple((one.st_ino, one.st_mtime_ns, one.st_size) for one in found)
