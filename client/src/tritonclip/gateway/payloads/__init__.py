"""Request bodies, the images that they name, and the OpenAPI document that describes them."""
