"""Whom fastlt is compared with."""
