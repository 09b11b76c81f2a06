"""The labels of a chart's axes as they are drawn, for tests that two of them never read the same."""

from __future__ import annotations

import xml.etree.ElementTree as ElementTree
from typing import Any

from undertow.reporting.page.shell import Figure
from undertow.reporting.viewing.export import image

SVG = "{http://www.w3.org/2000/svg}"


def axis_labels(chart: Any) -> list[list[str]]:
    """The labels of each axis, in the order in which they are drawn; axes without labels are left out."""
    picture = ElementTree.fromstring(image(Figure("chart", "A chart", chart, ""), "svg"))
    groups = [part for part in picture.iter(f"{SVG}g") if "role-axis-label" in part.get("class", "")]
    found = [[text for part in group.iter(f"{SVG}text") if (text := "".join(part.itertext()))] for group in groups]
    return [labels for labels in found if labels]


def repeated(chart: Any) -> list[list[str]]:
    """The axes on which two labels read the same."""
    return [labels for labels in axis_labels(chart) if len(set(labels)) < len(labels)]
