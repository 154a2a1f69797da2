//! Objects of those who take part: VENs, their resources and subscriptions, and what they are told.
//!
//! In answers a VEN and a resource have the `objectType` of the business logic's request: the schema of 3.1.0 asks for that and for
//! `VEN` or `RESOURCE` at once, and clients take either.

use serde::{Deserialize, Serialize};

use super::ValuesMap;

/// `objectType` of a VEN in a request of its own.
pub const VEN_BY_VEN: &str = "VEN_VEN_REQUEST";
/// `objectType` of a VEN in a request of business logic, and in answers.
pub const VEN_BY_BL: &str = "BL_VEN_REQUEST";
/// `objectType` of a resource in a request of its VEN.
pub const RESOURCE_BY_VEN: &str = "VEN_RESOURCE_REQUEST";
/// `objectType` of a resource in a request of business logic, and in answers.
pub const RESOURCE_BY_BL: &str = "BL_RESOURCE_REQUEST";

/// A client that takes part.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ven {
    /// Unique for good.
    pub id: String,
    /// RFC 3339.
    pub created_date_time: String,
    /// RFC 3339.
    pub modification_date_time: String,
    /// [`VEN_BY_BL`].
    pub object_type: String,
    /// The user.
    #[serde(rename = "clientID")]
    pub client_id: String,
    /// The name that it chose.
    pub ven_name: String,
    /// What it says about itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Vec<ValuesMap>>,
    /// What an operator has granted: it sees events that name one of them.
    #[serde(default)]
    pub targets: Vec<String>,
}

/// What a client says to become a VEN, or an operator to make one for it.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VenRequest {
    /// [`VEN_BY_VEN`] or [`VEN_BY_BL`].
    #[serde(default = "by_ven")]
    pub object_type: String,
    /// Whose it is: only an operator says so.
    #[serde(rename = "clientID", default)]
    pub client_id: Option<String>,
    /// The name that it chooses.
    pub ven_name: String,
    /// What it says about itself.
    #[serde(default)]
    pub attributes: Option<Vec<ValuesMap>>,
    /// What is granted: only an operator says so.
    #[serde(default)]
    pub targets: Option<Vec<String>>,
}

fn by_ven() -> String {
    VEN_BY_VEN.to_owned()
}

/// A device or a group of them behind a VEN.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Resource {
    /// Unique for good.
    pub id: String,
    /// RFC 3339.
    pub created_date_time: String,
    /// RFC 3339.
    pub modification_date_time: String,
    /// [`RESOURCE_BY_BL`].
    pub object_type: String,
    /// The user.
    #[serde(rename = "clientID")]
    pub client_id: String,
    /// Its name, unique within its VEN.
    pub resource_name: String,
    /// Its VEN.
    #[serde(rename = "venID")]
    pub ven_id: String,
    /// What is said about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub attributes: Option<Vec<ValuesMap>>,
    /// What an operator has granted.
    #[serde(default)]
    pub targets: Vec<String>,
}

/// What is said to make a resource.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ResourceRequest {
    /// [`RESOURCE_BY_VEN`] or [`RESOURCE_BY_BL`].
    #[serde(default = "resource_by_ven")]
    pub object_type: String,
    /// Its name.
    pub resource_name: String,
    /// Its VEN.
    #[serde(rename = "venID")]
    pub ven_id: String,
    /// What is said about it.
    #[serde(default)]
    pub attributes: Option<Vec<ValuesMap>>,
    /// What is granted: only an operator says so.
    #[serde(default)]
    pub targets: Option<Vec<String>>,
}

fn resource_by_ven() -> String {
    RESOURCE_BY_VEN.to_owned()
}

/// Kinds of objects.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum ObjectType {
    /// A program.
    Program,
    /// An event.
    Event,
    /// A report.
    Report,
    /// A subscription.
    Subscription,
    /// A VEN.
    Ven,
    /// A resource.
    Resource,
}

/// What was done with an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Operation {
    /// It was read. The standard names it; nothing here notifies of it.
    Read,
    /// It was made.
    Create,
    /// It was changed.
    Update,
    /// It was removed.
    Delete,
}

/// Which operations on which objects are told to whom.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ObjectOperation {
    /// The kinds.
    pub objects: Vec<ObjectType>,
    /// The operations.
    pub operations: Vec<Operation>,
    /// Where a notification is posted.
    pub callback_url: String,
    /// Sent along, as `Authorization: Bearer`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub bearer_token: Option<String>,
}

/// What a client wants to be told.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubscriptionRequest {
    /// The name that the client chooses.
    pub client_name: String,
    /// Only of this program; of all without one.
    #[serde(rename = "programID", default, skip_serializing_if = "Option::is_none")]
    pub program_id: Option<String>,
    /// What, and where to.
    pub object_operations: Vec<ObjectOperation>,
    /// Only of objects that name one of these; of all without any.
    #[serde(default)]
    pub targets: Option<Vec<String>>,
}

/// A subscription as the server shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Subscription {
    /// Unique for good.
    pub id: String,
    /// RFC 3339.
    pub created_date_time: String,
    /// RFC 3339.
    pub modification_date_time: String,
    /// SUBSCRIPTION.
    pub object_type: String,
    /// The user.
    #[serde(rename = "clientID")]
    pub client_id: String,
    /// What was wanted.
    #[serde(flatten)]
    pub content: SubscriptionRequest,
}

/// What is posted to a callback, and published to a notifier's topic.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// The kind of the object.
    pub object_type: ObjectType,
    /// What was done.
    pub operation: Operation,
    /// The object, as a GET shows it; as it was last, when it was removed.
    pub object: serde_json::Value,
    /// The object's targets, as far as the subscriber may know them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub targets: Option<Vec<String>>,
}

/// How notifications can be had.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub struct Notifiers {
    /// By callbacks: always.
    pub webhook: bool,
    /// By MQTT.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mqtt: Option<MqttBinding>,
}

/// How the MQTT broker is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MqttBinding {
    /// Its addresses, `mqtt://` or `mqtts://`.
    #[serde(rename = "URIS")]
    pub uris: Vec<String>,
    /// JSON.
    pub serialization: String,
    /// How one says who one is.
    pub authentication: MqttMethod,
}

/// How one says at the broker who one is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MqttMethod {
    /// Nobody needs to.
    Anonymous,
    /// The token is the password.
    Oauth2BearerToken {
        /// The user name that goes with it; `{clientID}` stands for the client's own.
        username: String,
    },
}

/// Topics of the notifications of one kind of object.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub struct Topics {
    /// Of making.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub create: Option<String>,
    /// Of changing.
    pub update: String,
    /// Of removing.
    pub delete: String,
    /// Of all of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub all: Option<String>,
}

/// The answer to a question for topics.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TopicsAnswer {
    /// The topics.
    pub topics: Topics,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c13_subscriptions_and_notifications_have_the_member_names_of_the_schema() {
        let text = r#"{"clientName":"myClient","programID":"44","objectOperations":[{"callbackUrl":"https://example.com/events",
            "operations":["CREATE","UPDATE"],"objects":["EVENT","PROGRAM"],"bearerToken":null}],"targets":null}"#;
        let request: SubscriptionRequest = serde_json::from_str(text).unwrap();
        assert_eq!(request.object_operations[0].objects, [ObjectType::Event, ObjectType::Program]);
        let shown = Subscription {
            id: "subscription-1".into(),
            created_date_time: "t".into(),
            modification_date_time: "t".into(),
            object_type: "SUBSCRIPTION".into(),
            client_id: "u".into(),
            content: request,
        };
        let shown = serde_json::to_value(&shown).unwrap();
        for member in ["id", "createdDateTime", "modificationDateTime", "objectType", "clientID", "clientName", "programID"] {
            assert!(shown.get(member).is_some(), "{member}");
        }
        assert_eq!(shown["objectOperations"][0]["callbackUrl"], "https://example.com/events");
        let told = Notification {
            object_type: ObjectType::Event,
            operation: Operation::Delete,
            object: serde_json::json!({"id": "e"}),
            targets: None,
        };
        let expected = serde_json::json!({"objectType": "EVENT", "operation": "DELETE", "object": {"id": "e"}});
        assert_eq!(serde_json::to_value(&told).unwrap(), expected);
        let binding = Notifiers {
            webhook: true,
            mqtt: Some(MqttBinding {
                uris: vec!["mqtt://host:1883".into()],
                serialization: "JSON".into(),
                authentication: MqttMethod::Oauth2BearerToken { username: "{clientID}".into() },
            }),
        };
        let expected = serde_json::json!({"WEBHOOK": true, "MQTT": {"URIS": ["mqtt://host:1883"], "serialization": "JSON",
            "authentication": {"method": "OAUTH2_BEARER_TOKEN", "username": "{clientID}"}}});
        assert_eq!(serde_json::to_value(&binding).unwrap(), expected);
    }
}
