"""From a trained model to the items that a user is shown."""
