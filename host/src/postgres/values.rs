//! Values between `spin:postgres` and the server, mapped as Spin maps them.
//!
//! Left out are decimals, ranges and intervals: as parameters they are a `bad-parameter`, in results a
//! `value-conversion-failed`, each saying so. Types that Spin has no name for either arrive as their bytes.

use bytes::BytesMut;
use chrono::{DateTime, Datelike, NaiveDate, NaiveDateTime, NaiveTime, Timelike, Utc};
use tokio_postgres::Row;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type};
use uuid::Uuid;

use crate::bindings::postgres::postgres::{Column, DbDataType, DbValue, Error, ParameterValue};

type BoxedError = Box<dyn std::error::Error + Sync + Send>;

/// A component's value on its way to the server. Texts and bytes are borrowed.
#[derive(Debug)]
pub(super) enum Parameter<'a> {
    Given(&'a ParameterValue),
    Date(NaiveDate),
    Time(NaiveTime),
    DateTime(NaiveDateTime),
    Timestamp(DateTime<Utc>),
    Uuid(Uuid),
    Json(serde_json::Value),
}

impl<'a> Parameter<'a> {
    pub(super) fn new(value: &'a ParameterValue) -> Result<Self, Error> {
        let bad = |what: String| Error::BadParameter(what);
        Ok(match value {
            ParameterValue::Date(date) => {
                Self::Date(to_date(*date).ok_or_else(|| bad(format!("invalid date {date:?}")))?)
            }
            ParameterValue::Time(time) => {
                Self::Time(to_time(*time).ok_or_else(|| bad(format!("invalid time {time:?}")))?)
            }
            ParameterValue::Datetime(at) => {
                let (year, month, day, hour, minute, second, nanosecond) = *at;
                let date = to_date((year, month, day));
                let time = to_time((hour, minute, second, nanosecond));
                let (date, time) = date.zip(time).ok_or_else(|| bad(format!("invalid date and time {at:?}")))?;
                Self::DateTime(NaiveDateTime::new(date, time))
            }
            ParameterValue::Timestamp(seconds) => Self::Timestamp(
                DateTime::from_timestamp(*seconds, 0).ok_or_else(|| bad(format!("invalid timestamp {seconds}")))?,
            ),
            ParameterValue::Uuid(text) => {
                Self::Uuid(text.parse().map_err(|error| bad(format!("invalid UUID: {error}")))?)
            }
            ParameterValue::Jsonb(json) => {
                Self::Json(serde_json::from_slice(json).map_err(|error| bad(format!("invalid JSON: {error}")))?)
            }
            ParameterValue::Decimal(_) => return Err(not_provided("decimal")),
            ParameterValue::RangeInt32(_) | ParameterValue::RangeInt64(_) | ParameterValue::RangeDecimal(_) => {
                return Err(not_provided("range"));
            }
            ParameterValue::ArrayDecimal(_) => return Err(not_provided("array-decimal")),
            ParameterValue::Interval(_) => return Err(not_provided("interval")),
            given => Self::Given(given),
        })
    }
}

fn not_provided(kind: &str) -> Error {
    Error::BadParameter(format!(
        "parameters of kind {kind} are not provided by this host: pass a text and cast it in SQL"
    ))
}

fn to_date((year, month, day): (i32, u8, u8)) -> Option<NaiveDate> {
    NaiveDate::from_ymd_opt(year, month.into(), day.into())
}

fn to_time((hour, minute, second, nanosecond): (u8, u8, u8, u32)) -> Option<NaiveTime> {
    NaiveTime::from_hms_nano_opt(hour.into(), minute.into(), second.into(), nanosecond)
}

impl ToSql for Parameter<'_> {
    fn to_sql(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, BoxedError> {
        match self {
            Self::Date(value) => value.to_sql_checked(kind, out),
            Self::Time(value) => value.to_sql_checked(kind, out),
            Self::DateTime(value) => value.to_sql_checked(kind, out),
            Self::Timestamp(value) => value.to_sql_checked(kind, out),
            Self::Uuid(value) => value.to_sql_checked(kind, out),
            Self::Json(value) => value.to_sql_checked(kind, out),
            Self::Given(value) => match value {
                ParameterValue::Boolean(value) => value.to_sql_checked(kind, out),
                ParameterValue::Int8(value) => value.to_sql_checked(kind, out),
                ParameterValue::Int16(value) => value.to_sql_checked(kind, out),
                ParameterValue::Int32(value) => value.to_sql_checked(kind, out),
                ParameterValue::Int64(value) => value.to_sql_checked(kind, out),
                ParameterValue::Floating32(value) => value.to_sql_checked(kind, out),
                ParameterValue::Floating64(value) => value.to_sql_checked(kind, out),
                ParameterValue::Str(value) => value.to_sql_checked(kind, out),
                ParameterValue::Binary(value) => value.to_sql_checked(kind, out),
                ParameterValue::ArrayInt32(value) => value.to_sql_checked(kind, out),
                ParameterValue::ArrayInt64(value) => value.to_sql_checked(kind, out),
                ParameterValue::ArrayStr(value) => value.to_sql_checked(kind, out),
                ParameterValue::DbNull => Ok(IsNull::Yes),
                // `new` has turned every other kind into a variant of its own, or refused it.
                other => Err(format!("{other:?} cannot be a parameter").into()),
            },
        }
    }

    // Each value checks by itself: a null is of any type.
    fn accepts(_: &Type) -> bool {
        true
    }

    fn to_sql_checked(&self, kind: &Type, out: &mut BytesMut) -> Result<IsNull, BoxedError> {
        self.to_sql(kind, out)
    }
}

/// The columns of a row.
pub(super) fn columns(row: &Row) -> Vec<Column> {
    row.columns()
        .iter()
        .map(|column| Column { name: column.name().to_owned(), data_type: data_type(column.type_()) })
        .collect()
}

fn data_type(kind: &Type) -> DbDataType {
    match *kind {
        Type::BOOL => DbDataType::Boolean,
        Type::BYTEA => DbDataType::Binary,
        Type::FLOAT4 => DbDataType::Floating32,
        Type::FLOAT8 => DbDataType::Floating64,
        Type::INT2 => DbDataType::Int16,
        Type::INT4 => DbDataType::Int32,
        Type::INT8 => DbDataType::Int64,
        Type::TEXT | Type::VARCHAR | Type::BPCHAR => DbDataType::Str,
        Type::TIMESTAMP | Type::TIMESTAMPTZ => DbDataType::Datetime,
        Type::DATE => DbDataType::Date,
        Type::TIME => DbDataType::Time,
        Type::UUID => DbDataType::Uuid,
        Type::JSONB => DbDataType::Jsonb,
        Type::INT4_ARRAY => DbDataType::ArrayInt32,
        Type::INT8_ARRAY => DbDataType::ArrayInt64,
        Type::TEXT_ARRAY | Type::VARCHAR_ARRAY | Type::BPCHAR_ARRAY => DbDataType::ArrayStr,
        _ => DbDataType::Other(kind.name().to_owned()),
    }
}

/// A row's values, and roughly what they take in memory.
pub(super) fn convert(row: &Row) -> Result<(Vec<DbValue>, usize), Error> {
    let mut bytes = 0;
    let values = (0..row.len())
        .map(|index| {
            let value = value(row, index)?;
            bytes += size_of::<DbValue>() + heap_bytes(&value);
            Ok(value)
        })
        .collect::<Result<_, _>>()?;
    Ok((values, bytes))
}

fn value(row: &Row, index: usize) -> Result<DbValue, Error> {
    let column = &row.columns()[index];
    Ok(match *column.type_() {
        Type::BOOL => get(row, index, DbValue::Boolean)?,
        Type::BYTEA => get(row, index, DbValue::Binary)?,
        Type::FLOAT4 => get(row, index, DbValue::Floating32)?,
        Type::FLOAT8 => get(row, index, DbValue::Floating64)?,
        Type::INT2 => get(row, index, DbValue::Int16)?,
        Type::INT4 => get(row, index, DbValue::Int32)?,
        Type::INT8 => get(row, index, DbValue::Int64)?,
        Type::TEXT | Type::VARCHAR | Type::BPCHAR => get(row, index, DbValue::Str)?,
        Type::TIMESTAMP => get(row, index, datetime)?,
        Type::TIMESTAMPTZ => get(row, index, |at: DateTime<Utc>| datetime(at.naive_utc()))?,
        Type::DATE => {
            get(row, index, |date: NaiveDate| DbValue::Date((date.year(), small(date.month()), small(date.day()))))?
        }
        Type::TIME => get(row, index, |time: NaiveTime| {
            DbValue::Time((small(time.hour()), small(time.minute()), small(time.second()), time.nanosecond()))
        })?,
        Type::UUID => get(row, index, |id: Uuid| DbValue::Uuid(id.to_string()))?,
        Type::JSONB => get(row, index, |json: serde_json::Value| DbValue::Jsonb(json.to_string().into_bytes()))?,
        Type::INT4_ARRAY => get(row, index, DbValue::ArrayInt32)?,
        Type::INT8_ARRAY => get(row, index, DbValue::ArrayInt64)?,
        Type::TEXT_ARRAY | Type::VARCHAR_ARRAY | Type::BPCHAR_ARRAY => get(row, index, DbValue::ArrayStr)?,
        Type::NUMERIC
        | Type::NUMERIC_ARRAY
        | Type::INT4_RANGE
        | Type::INT8_RANGE
        | Type::NUM_RANGE
        | Type::INTERVAL => {
            return Err(Error::ValueConversionFailed(format!(
                "column {:?} is of type {}, which this host does not provide: cast it to text in SQL",
                column.name(),
                column.type_().name()
            )));
        }
        _ => get(row, index, |Raw(bytes)| DbValue::Unsupported(bytes))?,
    })
}

fn get<'r, T: FromSql<'r>>(row: &'r Row, index: usize, make: impl FnOnce(T) -> DbValue) -> Result<DbValue, Error> {
    let value: Option<T> = row.try_get(index).map_err(|error| Error::ValueConversionFailed(error.to_string()))?;
    Ok(value.map_or(DbValue::DbNull, make))
}

fn datetime(at: NaiveDateTime) -> DbValue {
    DbValue::Datetime((
        at.year(),
        small(at.month()),
        small(at.day()),
        small(at.hour()),
        small(at.minute()),
        small(at.second()),
        at.nanosecond(),
    ))
}

/// Months, hours and the like are below 100.
fn small(number: u32) -> u8 {
    u8::try_from(number).unwrap_or(u8::MAX)
}

fn heap_bytes(value: &DbValue) -> usize {
    match value {
        DbValue::Str(text) | DbValue::Uuid(text) => text.len(),
        DbValue::Binary(bytes) | DbValue::Jsonb(bytes) | DbValue::Unsupported(bytes) => bytes.len(),
        DbValue::ArrayStr(texts) => texts.iter().flatten().map(|text| size_of::<String>() + text.len()).sum(),
        DbValue::ArrayInt32(numbers) => size_of_val(&numbers[..]),
        DbValue::ArrayInt64(numbers) => size_of_val(&numbers[..]),
        _ => 0,
    }
}

/// The bytes of a value as the server sent them.
struct Raw(Vec<u8>);

impl FromSql<'_> for Raw {
    fn from_sql(_: &Type, raw: &[u8]) -> Result<Self, BoxedError> {
        Ok(Self(raw.to_owned()))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}
