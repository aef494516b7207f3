"""All protocols by name."""

from types import MappingProxyType

from chiron.client.config_file import nearest
from chiron.errors import InputError
from chiron.evaluation.protocols.chiron_judge import ChironJudge
from chiron.evaluation.protocols.exact import Exact
from chiron.evaluation.protocols.huatuo_closed import HuatuoClosed
from chiron.evaluation.protocols.medevalkit_full import MedEvalKitFull
from chiron.evaluation.protocols.protocol import Protocol

_ALL: tuple[Protocol, ...] = (HuatuoClosed(), ChironJudge(), MedEvalKitFull(), Exact())
PROTOCOLS = MappingProxyType({protocol.name: protocol for protocol in _ALL})


def protocol_of(name: str) -> Protocol:
    """Look up a protocol by name.

    Raises:
        InputError: the name is unknown.
    """
    if name not in PROTOCOLS:
        raise InputError(f"no protocol is called '{name}'{nearest(name, PROTOCOLS)}; there are {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]
