"""The baseline of the start-up figures: a FastMCP server with one tool, as one writes it first."""

from fastmcp import FastMCP

mcp = FastMCP("bare")


@mcp.tool
async def add(a: int, b: int) -> int:
    """Add two numbers."""
    return a + b


if __name__ == "__main__":
    mcp.run(show_banner=False)
