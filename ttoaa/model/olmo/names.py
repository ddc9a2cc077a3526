"""Names of tensors in OLMo's safetensors files.

olmo/safetensors_util.py names a tensor by base64 of the pickle of ((key, key, ...), value is
pickled). Such a pickle holds texts, whole numbers and a truth value in tuples; it is read as that
data, without executing anything, and whatever else it holds is refused.
"""

import base64
import binascii
import pickletools

_TEXT = {"SHORT_BINUNICODE", "BINUNICODE"}
_NUMBER = {"BININT", "BININT1", "BININT2"}
_FRAME = {"PROTO", "FRAME", "MEMOIZE", "BINPUT", "MARK", "STOP", "NEWTRUE", "NEWFALSE"}
_TUPLE = {"TUPLE", "TUPLE1", "TUPLE2", "TUPLE3"}


def readable(name: str) -> str:
    """'state/transformer.wte.weight/exp_avg' of such a name, or of one that is readable already.

    Raises ValueError for a name that OLMo does not write.
    """
    if "." in name or "/" in name:  # neither is in the alphabet of base64
        return name
    keys = []
    try:
        for opcode, argument, _ in pickletools.genops(base64.urlsafe_b64decode(name)):
            if opcode.name in _TEXT | _NUMBER:
                keys.append(str(argument))
            elif opcode.name not in _FRAME | _TUPLE:
                raise ValueError(f"a pickle with {opcode.name}")
    except (ValueError, binascii.Error) as error:
        raise ValueError(f"{name!r} is not a tensor's name as OLMo writes it: {error}") from error
    return "/".join(keys)
