"""The report: summary.json, a Markdown table, figures and one HTML page that needs no network."""
