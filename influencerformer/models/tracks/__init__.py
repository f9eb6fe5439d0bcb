"""Networks that find particle tracks among detector hits."""
