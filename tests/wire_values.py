"""Values of all types that a message may have.  Imports nothing of the package, so it can try any release."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from hypothesis import strategies as st
from msgspec import inspect

TEXT = st.text(st.characters(codec="utf-8"), max_size=20)
INSTANTS = st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001


def values(type_: inspect.Type) -> st.SearchStrategy[Any]:
    """Values of a type that can be sent; fails for one that cannot."""
    match type_:
        case inspect.NoneType():
            return st.none()
        case inspect.BoolType():
            return st.booleans()
        case inspect.IntType():
            return st.integers(-(2**63), 2**63 - 1)
        case inspect.FloatType():
            return st.floats(allow_nan=False)
        case inspect.StrType():
            return TEXT
        case inspect.BytesType():
            return st.binary(max_size=20)
        case inspect.DateTimeType():
            return INSTANTS
        case inspect.EnumType(cls=cls):
            return st.sampled_from(list(cls))
        case inspect.UnionType(types=types):
            return st.one_of(*map(values, types))
        case inspect.FrozenSetType(item_type=item):
            return st.frozensets(values(item), max_size=3)
        case inspect.ListType(item_type=item):
            return st.lists(values(item), max_size=3)
        case inspect.VarTupleType(item_type=item):
            return st.lists(values(item), max_size=3).map(tuple)
        case inspect.DictType(key_type=key, value_type=value):
            return st.dictionaries(values(key), values(value), max_size=3)
        case inspect.StructType(cls=cls, fields=fields):
            return st.builds(cls, **{field.name: values(field.type) for field in fields})
        case _:
            raise AssertionError(f"{type_} is not for the wire")
