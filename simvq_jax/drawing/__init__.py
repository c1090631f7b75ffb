"""Parts of the report page: SVG charts, pictures, HTML. Of the project it imports `dsp` alone."""
