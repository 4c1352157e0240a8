//! Rows of Parquet files, written out as JSON Lines: columns are not read one row at a time.

use std::fs::File;
use std::io::{BufWriter, Write};
use std::sync::Arc;

use parquet::basic::{ConvertedType, Type as Physical};
use parquet::errors::ParquetError;
use parquet::file::reader::{FileReader, SerializedFileReader};
use parquet::record::{Field, Row};
use parquet::schema::types::{SchemaDescriptor, Type};
use serde_json::{Map, Number, Value};

use super::layout::Layout;

/// Writes the rows of `file` to `out`. Columns of a type that has no place in JSON (intervals, UUIDs) have the value
/// `null`, and their names are returned.
pub(super) fn to_lines(file: File, out: &File) -> Result<(Layout, Vec<String>), ParquetError> {
    let reader = SerializedFileReader::new(file)?;
    let (projection, left_out) = readable(reader.metadata().file_metadata().schema_descr())?;
    let mut out = BufWriter::with_capacity(1 << 18, out);
    let (mut layout, mut at) = (Layout::default(), 0_u64);
    for row in reader.get_row_iter(projection)? {
        let mut line = serde_json::to_vec(&object(row?)).map_err(external)?;
        line.push(b'\n');
        out.write_all(&line).map_err(external)?;
        let end = at + line.len() as u64;
        if !layout.push(at, end) {
            return Err(ParquetError::General(format!("row {} is longer than 4 GiB", layout.len() + 1)));
        }
        at = end;
    }
    out.flush().map_err(external)?;
    Ok((layout, left_out))
}

fn external(error: impl std::error::Error + Send + Sync + 'static) -> ParquetError {
    ParquetError::External(Box::new(error))
}

/// The schema without columns that the reader cannot give, and their names; `None` where it can give all.
fn readable(schema: &SchemaDescriptor) -> Result<(Option<Type>, Vec<String>), ParquetError> {
    let mut left_out: Vec<String> = Vec::new();
    for column in schema.columns() {
        use ConvertedType as C;
        let fine = match (column.physical_type(), column.converted_type()) {
            (_, C::NONE | C::DECIMAL) => true,
            (Physical::INT32, converted) => !matches!(converted, C::UINT_64 | C::INT_64 | C::TIME_MICROS),
            (Physical::INT64, converted) => {
                matches!(converted, C::INT_64 | C::UINT_64 | C::TIME_MICROS | C::TIMESTAMP_MILLIS | C::TIMESTAMP_MICROS)
            }
            (Physical::BYTE_ARRAY, converted) => matches!(converted, C::UTF8 | C::ENUM | C::JSON | C::BSON),
            (Physical::FIXED_LEN_BYTE_ARRAY, _) => false,
            _ => true,
        };
        if let (false, Some(name)) = (fine, column.path().parts().first())
            && !left_out.contains(name)
        {
            left_out.push(name.clone());
        }
    }
    if left_out.is_empty() {
        return Ok((None, left_out));
    }
    let root = schema.root_schema();
    let fields: Vec<Arc<Type>> =
        root.get_fields().iter().filter(|field| !left_out.iter().any(|name| name == field.name())).cloned().collect();
    Ok((Some(Type::group_type_builder(root.name()).with_fields(fields).build()?), left_out))
}

fn object(row: Row) -> Map<String, Value> {
    row.into_columns().into_iter().map(|(name, field)| (name, value(field))).collect()
}

fn value(field: Field) -> Value {
    let float = |number: f64| Number::from_f64(number).map_or(Value::Null, Value::Number);
    match field {
        Field::Null => Value::Null,
        Field::Bool(truth) => truth.into(),
        Field::Byte(number) => number.into(),
        Field::Short(number) => number.into(),
        Field::Int(number) | Field::Date(number) | Field::TimeMillis(number) => number.into(),
        Field::Long(number)
        | Field::TimeMicros(number)
        | Field::TimestampMillis(number)
        | Field::TimestampMicros(number) => number.into(),
        Field::UByte(number) => number.into(),
        Field::UShort(number) => number.into(),
        Field::UInt(number) => number.into(),
        Field::ULong(number) => number.into(),
        Field::Float16(number) => float(number.to_f64()),
        Field::Float(number) => float(number.into()),
        Field::Double(number) => float(number),
        Field::Str(text) => text.into(),
        Field::Bytes(bytes) => match String::from_utf8(bytes.data().to_vec()) {
            Ok(text) => text.into(),
            Err(_) => Value::Null,
        },
        Field::Group(row) => Value::Object(object(row)),
        Field::ListInternal(list) => list.elements().iter().cloned().map(value).collect(),
        Field::MapInternal(map) => Value::Object(
            map.entries()
                .iter()
                .map(|(key, entry)| {
                    let key = match value(key.clone()) {
                        Value::String(text) => text,
                        other => other.to_string(),
                    };
                    (key, value(entry.clone()))
                })
                .collect(),
        ),
        Field::Decimal(_) => Value::String(field.to_string()),
    }
}
