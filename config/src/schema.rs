//! The JSON Schema (2020-12) of the language, made from the Rust types.
//!
//! One schema per kind and one for any document, which switches on `kind`. The committed files
//! in `config/schema/` are these texts; a test compares them. A schema cannot say everything that
//! the compiler checks (references, sums, ties): what it refuses is wrong, what it accepts may be.

use schemars::generate::SchemaSettings;
use serde_json::{Value, json};

use crate::document;
use crate::kinds::Kind;
use crate::suggest;

/// Where the schemas are published.
const BASE: &str = "https://tillgate.dev/schema";

/// The schema of documents of `kind`.
pub fn of_kind(kind: Kind) -> Value {
    let generator = SchemaSettings::draft2020_12().for_deserialize().into_generator();
    let mut schema = document::schema(kind, generator).to_value();
    without_null(&mut schema);
    schema["$id"] = json!(format!("{BASE}/{}", file_name(kind)));
    schema
}

/// The schema of any document: `kind` decides which one applies. Refers to the files of the
/// kinds beside it.
pub fn all() -> Value {
    let switch: Vec<Value> = Kind::ALL
        .iter()
        .map(|kind| {
            json!({
                "if": {"properties": {"kind": {"const": kind.name()}}},
                "then": {"$ref": file_name(*kind)},
            })
        })
        .collect();
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": format!("{BASE}/all.json"),
        "title": "any Tillgate document",
        "type": "object",
        "required": ["apiVersion", "kind", "metadata", "spec"],
        "properties": {"kind": {"enum": Kind::ALL.map(Kind::name)}},
        "allOf": switch,
    })
}

/// The same in one piece: the kinds are embedded under their names, where `$ref` finds them.
pub fn bundle() -> Value {
    let mut schema = all();
    let kinds = Kind::ALL.iter().map(|kind| (kind.name().to_owned(), of_kind(*kind)));
    schema["$defs"] = Value::Object(kinds.collect());
    schema
}

/// The file of a kind's schema, below `config/schema/`: the layout that kubeconform expects.
pub fn file_name(kind: Kind) -> String {
    format!("tillgate.dev/{}_v1alpha1.json", kind.name().to_lowercase())
}

/// The schema of the kind called `name`, or of any document in one piece.
///
/// # Errors
/// A sentence if there is no such kind.
pub fn by_name(name: Option<&str>) -> Result<Value, String> {
    let Some(name) = name else { return Ok(bundle()) };
    let found = Kind::ALL.into_iter().find(|kind| kind.name().eq_ignore_ascii_case(name));
    found.map(of_kind).ok_or_else(|| {
        format!(
            "the kind `{name}` is not known: {}",
            suggest::hint(name, Kind::ALL.map(Kind::name))
        )
    })
}

/// A field may be left out, but not be null: the parser refuses a key without a value, and so
/// does the schema.
fn without_null(value: &mut Value) {
    match value {
        Value::Object(object) => {
            object.values_mut().for_each(without_null);
            if let Some(Value::Array(types)) = object.get_mut("type") {
                types.retain(|one| one != "null");
                if let [single] = types.as_slice() {
                    let single = single.clone();
                    object.insert("type".to_owned(), single);
                }
            }
            let Some(Value::Array(options)) = object.get_mut("anyOf") else { return };
            options.retain(|one| *one != json!({"type": "null"}));
            if let [Value::Object(single)] = options.as_mut_slice() {
                let single = std::mem::take(single);
                object.remove("anyOf");
                // The field's own description stays before that of its type.
                for (key, value) in single {
                    object.entry(key).or_insert(value);
                }
            }
            if object.get("default") == Some(&Value::Null) {
                object.remove("default");
            }
        }
        Value::Array(items) => items.iter_mut().for_each(without_null),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}
