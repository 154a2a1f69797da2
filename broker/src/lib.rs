//! The MQTT face: listeners, sessions, authentication, grants and durable acknowledgement over rumqttd's router.
