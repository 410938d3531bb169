"""The key by which a sink knows a batch that it has received before."""

import hashlib

from sensor_node.core.model import Claim

DIGEST_HEX_DIGITS = 10


def idempotency_key(claim: Claim, body: bytes) -> str:
    """`"STREAM-FIRST-LAST-DIGEST"`, the quotes included, as the Idempotency-Key header wants it.

    The digest is of the uncompressed body and of the claim's `requeue_count`: another body never
    carries an old key, and neither does a batch that a person requeued.
    """
    digest = hashlib.sha256(body)
    digest.update(b"%d" % claim.requeue_count)
    first, last = claim.stream.number(claim.first_id), claim.stream.number(claim.last_id)
    return f'"{claim.stream.name}-{first}-{last}-{digest.hexdigest()[:DIGEST_HEX_DIGITS]}"'
