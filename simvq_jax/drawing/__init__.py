"""Parts of the report page: SVG charts, pictures, HTML. Imports nothing from the project."""
