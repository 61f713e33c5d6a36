//! The part of the API's description that attributes of handlers cannot give: the limits of parameters, which of them
//! exclude each other, and what the layers around every handler answer.

use serde_json::{Map, Value, json};
use utoipa::openapi::OpenApi;

/// Groups of parameters of which a request names one at most. The description says so by an object whose fields are the
/// parameters.
const EXCLUSIVE: [(&str, &str, &[&str]); 2] = [
    ("begin", "where to begin, said in one way at most", &["cursor", "from", "after_id"]),
    ("filter", "events of any of these types, or of this stream", &["type", "stream"]),
];
/// The pattern of every text: none has a NUL character.
const TEXT: &str = r"^[^\x00]*$";
/// The objects of an event whose fields may have any names.
const OPEN: [&str; 2] = ["payload", "gdpr"];
/// The statuses that any operation may be answered with.
const ALWAYS: [(&str, &str); 4] = [
    ("400", "The request is invalid"),
    ("415", "Bodies are taken without encoding"),
    ("500", "A failure, which is in the log of the service"),
    ("503", "Something that is needed is away, try again later"),
];
/// The statuses that only an operation with a body may be answered with.
const WITH_BODY: [(&str, &str); 2] = [("408", "The body did not come in time"), ("413", "The body is too large")];

/// Returns the whole description.
pub fn complete(description: &OpenApi) -> Value {
    let mut document = serde_json::to_value(description).expect("a description always serializes");
    let paths = document["paths"].as_object_mut().expect("there are paths");
    let operations = paths.values_mut().filter_map(Value::as_object_mut).flat_map(Map::values_mut);
    operations.filter_map(Value::as_object_mut).for_each(complete_operation);
    document["components"]["schemas"]["Fields"] = json!({
        "description": "a JSON object, no name within which has a NUL character", "type": "object",
        "propertyNames": {"pattern": TEXT}, "additionalProperties": {"$ref": "#/components/schemas/Value"},
    });
    document["components"]["schemas"]["Value"] = json!({"description": "any JSON", "anyOf": [
        {"type": ["null", "boolean", "number", "string", "array"]}, {"$ref": "#/components/schemas/Fields"},
    ]});
    document["components"]["schemas"]["PlainValue"] = json!({
        "description": "any JSON without a NUL character in its texts and names", "anyOf": [
            {"type": ["null", "boolean", "number"]}, {"type": "string", "pattern": TEXT},
            {"type": "array", "items": {"$ref": "#/components/schemas/PlainValue"}},
            {"type": "object", "propertyNames": {"pattern": TEXT},
             "additionalProperties": {"$ref": "#/components/schemas/PlainValue"}},
        ],
    });
    let default = document.pointer_mut("/components/schemas/NewGdprDocument/properties/default");
    default.expect("there is such a field")["allOf"] = json!([{"$ref": "#/components/schemas/PlainValue"}]);
    for name in OPEN {
        let schema = document.pointer_mut(&format!("/components/schemas/NewEventDocument/properties/{name}"));
        schema.expect("there are such fields")["propertyNames"] = json!({"pattern": TEXT});
    }
    document
}

fn complete_operation(operation: &mut Map<String, Value>) {
    if let Some(Value::Array(parameters)) = operation.get_mut("parameters") {
        parameters.iter_mut().for_each(limit);
        for (name, meaning, members) in EXCLUSIVE {
            exclude(parameters, (name, meaning), members);
        }
    }
    let body = operation.get_mut("requestBody");
    let has_body = body.is_some();
    if let Some(schema) = body.and_then(|body| body.pointer_mut("/content/application~1merge-patch+json/schema")) {
        *schema = json!({
            "type": "object", "required": ["payload"], "properties": {"payload": {"$ref": "#/components/schemas/Fields"}},
            "additionalProperties": false,
        });
    }
    let responses = operation["responses"].as_object_mut().expect("there are responses");
    for (status, meaning) in ALWAYS.iter().chain(WITH_BODY.iter().filter(|_| has_body)) {
        responses.entry(*status).or_insert_with(|| json!({"description": meaning}));
    }
    for (_, response) in responses.iter_mut().filter(|(status, _)| status.starts_with(['4', '5'])) {
        let problem = json!({"schema": {"$ref": "#/components/schemas/Problem"}});
        response["content"] = json!({"application/problem+json": problem});
    }
}

/// Adds the limits of a text, which its name decides. Numbers have their limits in the attributes.
fn limit(parameter: &mut Value) {
    let text =
        |least: u64, most: u64| json!({"type": "string", "minLength": least, "maxLength": most, "pattern": TEXT});
    let schema = match parameter["name"].as_str().unwrap_or_default() {
        "topic" => text(1, 1020),
        "tenant" | "stream" => text(0, 1020),
        "event_id" | "after_id" => text(1, 255),
        "actor" | "reason" | "ticket" => json!({"type": "string", "maxLength": 1000, "pattern": r"^[^\x00@]*$"}),
        "cursor" => json!({"type": "string", "pattern": "^[0-9]{1,18}$"}),
        "type" => json!({"type": "array", "items": text(1, 1020)}),
        _ => return,
    };
    parameter["schema"] = schema;
}

fn exclude(parameters: &mut Vec<Value>, (name, meaning): (&str, &str), members: &[&str]) {
    let is_member = |parameter: &Value| members.iter().any(|member| parameter["name"] == *member);
    let excluded: Vec<Value> = parameters.iter().filter(|parameter| is_member(parameter)).cloned().collect();
    if excluded.len() < 2 {
        return;
    }
    parameters.retain(|parameter| !is_member(parameter));
    let fields = excluded.into_iter().map(|mut parameter| {
        let mut schema = parameter["schema"].take();
        schema["description"] = parameter["description"].take();
        (parameter["name"].as_str().unwrap_or_default().to_owned(), schema)
    });
    parameters.push(json!({
        "name": name, "in": "query", "description": meaning, "style": "form", "explode": true,
        "schema": {
            "type": "object", "properties": fields.collect::<Map<_, _>>(), "maxProperties": 1,
            "additionalProperties": false,
        },
    }));
}
