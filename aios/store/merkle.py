"""The Merkle tree of RFC 6962 (same in RFC 9162, section 2.1.1), grown at its right edge."""

import hashlib


class Tree:
    """The hash of a growing list, in memory that grows with the logarithm of its length.

    Only the roots of the complete subtrees on the left are kept. Leaves and nodes are hashed
    with different first bytes, so that neither can stand for the other.

    >>> tree = Tree()
    >>> tree.append(b"")
    >>> tree.root()
    '6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d'
    """

    def __init__(self) -> None:
        self.size = 0
        self._complete: list[bytes] = []

    def append(self, leaf: bytes) -> None:
        """Add one at the end."""
        node = hashlib.sha256(b"\x00" + leaf).digest()
        # There is one complete subtree per bit that is set in the size.
        size = self.size
        while size & 1:
            node = _join(self._complete.pop(), node)
            size >>= 1
        self._complete.append(node)
        self.size += 1

    def root(self) -> str:
        """The hash over all leaves so far, in hex."""
        if not self._complete:
            return hashlib.sha256().hexdigest()
        node = self._complete[-1]
        for left in reversed(self._complete[:-1]):
            node = _join(left, node)
        return node.hex()

    def copy(self) -> "Tree":
        """Another tree over the same leaves, which grows by itself."""
        other = Tree()
        other.size, other._complete = self.size, self._complete.copy()
        return other


def _join(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\x01" + left + right).digest()
