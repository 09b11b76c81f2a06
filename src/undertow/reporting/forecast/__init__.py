"""The page of a forecast: what is read, the charts, the page."""
