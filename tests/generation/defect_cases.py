"""Hosts, rules and tokenizers for tests of defects in words."""

from __future__ import annotations

from crystalfm.chem.defects.hosts import HOSTS
from crystalfm.chem.defects.rules import parse_rules
from crystalfm.generation.defects.prompts import DefectPromptSettings

RULES = {
    "MoS2": ("v_S", "Se_S", "v_Mo", "W_Mo"),
    "P": ("v_P", "N_P"),
    "BN": ("v_B", "v_N", "C_B", "C_N"),
    "GaSe": ("v_Ga", "S_Se"),
}


def defect_settings(**changes):
    """Return settings of four hosts: with one, two and three elements in a site's name, and four atoms of one."""
    hosts = tuple(HOSTS[name] for name in RULES)
    return DefectPromptSettings(hosts, {name: parse_rules(rules) for name, rules in RULES.items()}, **changes)
