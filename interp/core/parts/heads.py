"""Heads as they are given: one or several, as sites or their texts, or all."""

from collections.abc import Sequence

from interp.core.errors import SiteError
from interp.core.parts.facts import Facts
from interp.core.parts.sites import Site, resolve

Heads = str | Site | Sequence[str | Site]
"""`"heads"`, `"23.3"`, a Site, or a list of these."""


def heads_of(heads: Heads, facts: Facts) -> tuple[Site, ...]:
    """Sites like "23.3", in order of computation.

    Raises:
        SiteError: not sites of the model, or of something else than heads.
    """
    sites = resolve(heads, facts)
    if odd := [str(site) for site in sites if site.kind != "z"]:
        raise SiteError(
            f"{', '.join(odd[:8])} {'are no heads' if len(odd) > 1 else 'is no head'}; give sites "
            f"like '23.3', or 'heads'. ({facts})"
        )
    return sites


def one_head(head: str | Site, facts: Facts) -> Site:
    """A site like "23.3".

    Raises:
        SiteError: not a site of the model, or not one head.
    """
    sites = resolve(head, facts)
    if len(sites) != 1 or sites[0].kind != "z":
        raise SiteError(f"'{head}' is not one head; give a site like '23.3'. ({facts})")
    return sites[0]
