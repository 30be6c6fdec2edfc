"""What runs a federation on real machines: certificates, launchers, health; no part of the app's bundle."""
