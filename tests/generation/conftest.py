"""The SDKs are imported before the first test: else whichever comes first waits a second for it, and its times are not its own."""

from __future__ import annotations

import anthropic
import openai
from google import genai

LOADED = (anthropic.__name__, genai.__name__, openai.__name__)
