"""The APIs that answer questions: one file each, and one line in PROVIDERS. SDKs are imported when first needed."""

from __future__ import annotations
