//! For tests only: a scripted MQTT peer, links that can be cut, seeds and a chain under test.
