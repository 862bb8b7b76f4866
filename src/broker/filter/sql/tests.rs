use std::collections::BTreeMap;

use proptest::{collection::vec, prelude::*};

use super::{
    expression::{Constant, Op, TextOp},
    *,
};
use crate::types::properties::PropertiesBuilder;

fn properties(of: &[(&str, &str)]) -> Properties {
    let mut builder = PropertiesBuilder::default();
    for (name, value) in of {
        builder.push(name, value);
    }
    builder.build()
}

#[track_caller]
fn wants(expression: &str, of: &[(&str, &str)]) -> bool {
    Sql::parse(expression).unwrap_or_else(|e| panic!("{expression}: {e}")).matches(&properties(of))
}

fn error(expression: &str) -> SqlError {
    Sql::parse(expression).expect_err(expression)
}

/// Each expression with messages that it wants and messages that it does not.
#[test]
fn expressions_want_what_apaches_filter_wants() {
    type Message = &'static [(&'static str, &'static str)];
    let claims: &[(&str, &[Message], &[Message])] = &[
        ("a = 'x'", &[&[("a", "x")]], &[&[("a", "X")], &[]]),
        ("a = 'it''s'", &[&[("a", "it's")]], &[&[("a", "its")]]),
        ("a <> 'x'", &[&[("a", "y")]], &[&[("a", "x")], &[]]),
        ("'x' <> a", &[&[("a", "y")], &[]], &[&[("a", "x")]]),
        ("a > 3", &[&[("a", "4")], &[("a", "+4")]], &[&[("a", "3")], &[("a", "3.5")], &[("a", " 4")], &[]]),
        ("3 < a", &[&[("a", "4")]], &[&[("a", "2")], &[("a", "3.5")]]),
        ("a > 3.0", &[&[("a", "3.5")], &[("a", " 4 ")], &[("a", "4f")]], &[&[("a", "3")], &[("a", "0x4")]]),
        ("a >= -5", &[&[("a", "-5")]], &[&[("a", "-6")]]),
        ("a <= 2147483648", &[&[("a", "2147483648")], &[("a", "1")]], &[&[("a", "9999999999")]]),
        // A number that fits 32 bits has the property read as one of 32 bits.
        ("a > 3L", &[&[("a", "4")]], &[&[("a", "2147483648")]]),
        ("a < b", &[&[("a", "2"), ("b", "10")]], &[&[("a", "x"), ("b", "y")], &[("a", "1")]]),
        ("a = b", &[&[("a", "x"), ("b", "x")], &[]], &[&[("a", "1"), ("b", "1.0")], &[("a", "x")], &[("b", "x")]]),
        ("a = TRUE", &[&[("a", "TRUE")], &[("a", "true")]], &[&[("a", "yes")], &[]]),
        ("a = FALSE", &[&[("a", "yes")]], &[&[("a", "true")], &[]]),
        ("a IS NULL", &[&[]], &[&[("a", "x")]]),
        ("a IS NOT NULL", &[&[("a", "x")]], &[&[]]),
        ("a BETWEEN 1 AND 3", &[&[("a", "1")], &[("a", "3")]], &[&[("a", "0")], &[("a", "4")], &[]]),
        ("a NOT BETWEEN 1 AND 3", &[&[("a", "0")], &[("a", "4")]], &[&[("a", "1")], &[("a", "3")], &[]]),
        ("a BETWEEN 1 AND b", &[&[("a", "2"), ("b", "9")]], &[&[("a", "10"), ("b", "9")], &[("a", "2")]]),
        ("a IN ('x', 'y')", &[&[("a", "y")]], &[&[("a", "z")], &[]]),
        ("a NOT IN ('x', 'y')", &[&[("a", "z")]], &[&[("a", "y")], &[]]),
        ("a CONTAINS 'bc'", &[&[("a", "abcd")]], &[&[("a", "acbd")], &[]]),
        ("a NOT CONTAINS 'bc'", &[&[("a", "acbd")]], &[&[("a", "abcd")], &[]]),
        ("a CONTAINS ''", &[], &[&[("a", "x")]]),
        ("a NOT CONTAINS ''", &[], &[&[("a", "x")]]),
        ("a STARTSWITH 'ab'", &[&[("a", "abc")]], &[&[("a", "cab")]]),
        ("a ENDSWITH 'ab'", &[&[("a", "cab")]], &[&[("a", "abc")]]),
        ("a NOT ENDSWITH 'ab'", &[&[("a", "abc")]], &[&[("a", "cab")], &[]]),
        ("TAGS = 'paid' AND KEYS CONTAINS '7'", &[&[("TAGS", "paid"), ("KEYS", "k6 k7")]], &[&[("TAGS", "paid")]]),
        ("NOT (a = 'x')", &[&[("a", "y")]], &[&[("a", "x")], &[]]),
        // NOT binds tighter than the comparison, and a boolean equals no text.
        ("NOT a = 'x'", &[], &[&[("a", "y")], &[("a", "x")], &[]]),
        ("a", &[], &[&[("a", "true")], &[]]),
        ("NOT a", &[&[("a", "true")]], &[&[]]),
        ("TRUE", &[&[]], &[]),
        ("NULL", &[], &[&[]]),
        ("NULL IS NULL", &[&[]], &[]),
        ("a = 'x' OR b = 'y' AND c = 'z'", &[&[("a", "x")]], &[&[("b", "y")]]),
        ("(a = 'x' OR b = 'y') AND c = 'z'", &[&[("b", "y"), ("c", "z")]], &[&[("a", "x")]]),
        ("-a IS NULL", &[&[("a", "5")]], &[]),
        ("5 = 5.0 AND 5 < 2147483648", &[&[]], &[]),
        ("a = 'x' = TRUE", &[&[("a", "x")]], &[&[("a", "y")]]),
    ];
    for (expression, wanted, unwanted) in claims {
        for message in *wanted {
            assert!(wants(expression, message), "{expression} wants {message:?}");
        }
        for message in *unwanted {
            assert!(!wants(expression, message), "{expression} does not want {message:?}");
        }
    }
}

#[test]
fn what_is_unknown_stays_so_until_something_decides() {
    let unknown = "a = 'x'";
    for (expression, wanted) in [
        (format!("{unknown} OR TRUE"), true),
        (format!("{unknown} AND TRUE"), false),
        (format!("NOT ({unknown} AND FALSE)"), true),
        (format!("NOT ({unknown})"), false),
        (format!("NOT ({unknown} OR FALSE)"), false),
        (format!("({unknown}) IS NULL"), true),
    ] {
        assert_eq!(wants(&expression, &[]), wanted, "{expression}");
    }
}

/// A text that is no number makes the expression unfit, unless what stands before it has decided.
#[test]
fn a_text_that_is_no_number_spoils_the_whole_expression() {
    let message = [("a", "many")];
    assert!(!wants("a > 3", &message));
    assert!(!wants("NOT (a > 3)", &message));
    assert!(!wants("a > 3 OR TRUE", &message));
    assert!(wants("TRUE OR a > 3", &message));
    assert!(wants("NOT (FALSE AND a > 3)", &message));
}

#[test]
fn keywords_have_any_case_and_names_their_own() {
    assert!(wants("a In ('x') aNd b Is noT nULL or fALSE", &[("a", "x"), ("b", "1")]));
    assert!(!wants("A = 'x'", &[("a", "x")]));
    assert!(wants("$a_1 = 'x'", &[("$a_1", "x")]));
}

#[test]
fn blanks_and_comments_do_not_count() {
    assert!(wants("/* both */ a='x'AND -- the other\n\tb\r\n=\u{c}'y' --", &[("a", "x"), ("b", "y")]));
    assert!(wants("a = '-- no comment'", &[("a", "-- no comment")]));
}

#[test]
fn an_error_names_the_column_and_what_was_expected() {
    for (expression, told) in [
        ("", "column 1: expected a property, a constant or (, found the end"),
        ("a >", "column 4: expected a property, a constant or (, found the end"),
        ("订单", "column 1: the character '订' has no place in an expression"),
        ("a = '订单' b", "column 10: expected AND, OR, a comparison or the end, found b"),
        ("a LIKE 'x'", "column 3: expected AND, OR, a comparison or the end, found LIKE"),
        ("a != 1", "column 3: the character '!' has no place in an expression"),
        ("a + 1 = 2", "column 3: expected AND, OR, a comparison or the end, found +"),
        ("a = 'x", "column 5: the text has no closing quote; a quote within a text is written twice"),
        ("a /* x", "column 3: the comment has no end; close it with */"),
        ("(a = 1", "column 7: expected AND, OR, a comparison or ), found the end"),
        ("a IN (1)", "column 7: expected a text in single quotes, found 1"),
        ("a IN ()", "column 7: expected a text in single quotes, found )"),
        ("a IN ('x' 'y')", "column 11: expected a comma or ) in the list of IN, found 'y'"),
        ("'a' IN ('x')", "column 1: the left side of IN must be the name of a property"),
        ("a IS 1", "column 6: expected NULL or NOT NULL, found 1"),
        ("a NOT 1", "column 7: expected BETWEEN, IN, CONTAINS, STARTSWITH or ENDSWITH after NOT, found 1"),
        ("a BETWEEN 1 OR 2", "column 13: expected AND between the bounds of BETWEEN, found OR"),
        ("a BETWEEN 3 AND 1.5", "column 17: the lower bound of BETWEEN is above the upper one"),
        ("a = NULL", "column 5: NULL cannot be compared; use IS NULL or IS NOT NULL"),
        ("TRUE = 1", "column 1: TRUE and FALSE can be compared with a property only"),
        (
            "a = 0.0",
            "column 5: a decimal number must be greater than zero and finite; write 0 for zero, and -1.5 for less",
        ),
        (
            "a = 1e999",
            "column 5: a decimal number must be greater than zero and finite; write 0 for zero, and -1.5 for less",
        ),
        ("a = 9223372036854775808", "column 5: the number 9223372036854775808 does not fit 64 bits"),
        ("a = 007", "column 5: expected a number without leading zeros, found 007"),
        ("a AND 5", "column 7: this is a number, where something true or false is needed"),
        ("NOT 'x'", "column 5: this is a text, where something true or false is needed"),
        ("5", "column 1: this is a number, where something true or false is needed"),
    ] {
        assert_eq!(error(expression).to_string(), told, "{expression}");
    }
    for (expression, column) in [("a > 'x'", 5), ("TRUE < a", 1), ("a > 3 > 2", 1), ("a BETWEEN 'x' AND 'y'", 11)] {
        let error = error(expression);
        assert!(matches!(error, SqlError { column: c, problem: Problem::NotOrdered { .. } } if c == column), "{error}");
    }
}

#[test]
fn depth_is_bounded_and_length_is_not() {
    let nested = |n: usize| format!("{}a = 1{}", "NOT (".repeat(n), ")".repeat(n));
    assert!(Sql::parse(&nested(DEPTH_MAX - 2)).is_ok());
    for deep in [
        nested(DEPTH_MAX),
        format!("{}a", "NOT ".repeat(4000)),
        "(".repeat(4000),
        format!("a{}", " = a".repeat(1000)),
        format!("{}5", "- + ".repeat(1000)),
    ] {
        assert_eq!(error(&deep).problem, Problem::TooDeep, "{deep:.40}");
    }
    let long = vec!["a = 'x'"; 300].join(" OR ");
    assert!(wants(&long, &[("a", "x")]));
}

/// What stands for three-valued truth here: 0 false, 1 unknown, 2 true.
type Three = Result<u8, ()>;

/// Written plainly and apart from the real one: texts in a map, numbers as Java's types, AND as the least of its parts.
struct Naive(BTreeMap<String, String>);

#[derive(Clone, Debug, PartialEq)]
enum Plain {
    Nothing,
    Text(String),
    Number(Constant),
    Truth(bool),
}

impl Naive {
    fn plain(&self, e: &Expression) -> Result<Plain, ()> {
        Ok(match e {
            Expression::Constant(Constant::Text(text)) => Plain::Text(text.to_string()),
            Expression::Constant(Constant::Null) => Plain::Nothing,
            Expression::Constant(Constant::Boolean(b)) => Plain::Truth(*b),
            Expression::Constant(number) => Plain::Number(number.clone()),
            Expression::Property(name) => self.0.get(&**name).cloned().map_or(Plain::Nothing, Plain::Text),
            Expression::Negative(inner) => match self.plain(inner)? {
                Plain::Number(_) => unreachable!("the parser takes the negative of numbers"),
                _ => Plain::Nothing,
            },
            other => match self.three(other)? {
                0 => Plain::Truth(false),
                1 => Plain::Nothing,
                _ => Plain::Truth(true),
            },
        })
    }

    /// Sign of left minus right; `None` when they cannot be told.
    fn sign(left: &Plain, right: &Plain) -> Result<Option<i32>, ()> {
        let flip = |sign: Option<i32>| sign.map(|s| -s);
        let of = |o: std::cmp::Ordering| Some(o as i32);
        Ok(match (left, right) {
            (Plain::Text(a), Plain::Text(b)) => of(a.as_str().cmp(b)),
            (Plain::Text(a), Plain::Truth(b)) => of(a.to_lowercase().eq("true").cmp(b)),
            (Plain::Text(a), Plain::Number(n)) => match n {
                Constant::Integer(n) => of(a.parse::<i32>().map_err(drop)?.cmp(n)),
                Constant::Long(n) => of(a.parse::<i64>().map_err(drop)?.cmp(n)),
                Constant::Double(n) => a.parse::<f64>().map_err(drop)?.partial_cmp(n).map(|o| o as i32),
                _ => unreachable!("a number"),
            },
            (Plain::Number(_), Plain::Text(_)) => flip(Self::sign(right, left)?),
            (Plain::Number(a), Plain::Number(b)) => match (a, b) {
                (Constant::Double(_), _) | (_, Constant::Double(_)) => {
                    let [a, b] = [a, b].map(|n| n.to_string().parse::<f64>().unwrap());
                    a.partial_cmp(&b).map(|o| o as i32)
                }
                _ => {
                    let [a, b] = [a, b].map(|n| n.to_string().parse::<i64>().unwrap());
                    of(a.cmp(&b))
                }
            },
            (Plain::Truth(a), Plain::Truth(b)) => of(a.cmp(b)),
            _ => None,
        })
    }

    fn compare(&self, left: &Expression, op: Op, right: &Expression) -> Three {
        let (mut left, mut right) = (self.plain(left)?, self.plain(right)?);
        let ordering = !matches!(op, Op::Equal | Op::NotEqual);
        match (left == Plain::Nothing, right == Plain::Nothing, op) {
            (true, true, Op::Equal) => return Ok(2),
            (true, true, Op::NotEqual) => return Ok(0),
            (false, true, Op::Equal) => return Ok(0),
            (false, true, Op::NotEqual) => return Ok(2),
            (true, ..) | (_, true, _) => return Ok(1),
            _ => {}
        }
        if ordering && let (Plain::Text(a), Plain::Text(b)) = (&left, &right) {
            let [a, b] = [a, b].map(|text| text.parse::<f64>().map(Constant::Double));
            (left, right) = (Plain::Number(a.map_err(drop)?), Plain::Number(b.map_err(drop)?));
        }
        let sign = Self::sign(&left, &right)?;
        let holds = match op {
            Op::Equal => sign == Some(0),
            Op::NotEqual => sign != Some(0),
            Op::Less => sign == Some(-1),
            Op::LessOrEqual => sign.is_some_and(|s| s < 1),
            Op::Greater => sign == Some(1),
            Op::GreaterOrEqual => sign.is_some_and(|s| s > -1),
        };
        Ok(if holds { 2 } else { 0 })
    }

    fn three(&self, e: &Expression) -> Three {
        let truth = |b: bool| if b { 2 } else { 0 };
        Ok(match e {
            Expression::Constant(Constant::Boolean(b)) => truth(*b),
            Expression::Property(name) => u8::from(!self.0.contains_key(&**name)),
            Expression::Constant(_) | Expression::Negative(_) => 1,
            Expression::Not(inner) => 2 - self.three(inner)?,
            Expression::And(parts) => {
                let mut least = 2;
                for part in parts {
                    if least > 0 {
                        least = least.min(self.three(part)?);
                    }
                }
                least
            }
            Expression::Or(parts) => {
                let mut most = 0;
                for part in parts {
                    if most < 2 {
                        most = most.max(self.three(part)?);
                    }
                }
                most
            }
            Expression::Compare { left, op, right } => self.compare(left, *op, right)?,
            Expression::IsNull { value, not } => truth((self.plain(value)? == Plain::Nothing) != *not),
            Expression::Between { value, not: false, low, high } => {
                match self.compare(value, Op::GreaterOrEqual, low)? {
                    0 => 0,
                    first => first.min(self.compare(value, Op::LessOrEqual, high)?),
                }
            }
            Expression::Between { value, not: true, low, high } => match self.compare(value, Op::Less, low)? {
                2 => 2,
                first => first.max(self.compare(value, Op::Greater, high)?),
            },
            Expression::In { property, not, list } => match self.0.get(&**property) {
                None => 1,
                Some(text) => truth(list.iter().any(|l| **l == **text) != *not),
            },
            Expression::Text { value, not, op, search } => match self.plain(value)? {
                Plain::Text(text) if !search.is_empty() => {
                    let found = match op {
                        TextOp::Contains => text.find(&**search).is_some(),
                        TextOp::StartsWith => text.find(&**search) == Some(0),
                        TextOp::EndsWith => text.strip_suffix(&**search).is_some(),
                    };
                    truth(found != *not)
                }
                _ => 0,
            },
        })
    }
}

const NAMES: [&str; 4] = ["a", "B_2", "TAGS", "$x"];

fn text() -> impl Strategy<Value = Box<str>> {
    prop_oneof![
        Just("true".into()),
        (-3i64..4).prop_map(|n| n.to_string().into()),
        Just("1.5".into()),
        Just("2147483648".into()),
        "[a-b' 订]{0,3}".prop_map(Into::into),
    ]
}

fn number() -> impl Strategy<Value = Constant> {
    prop_oneof![
        (-3..4i32).prop_map(Constant::Integer),
        any::<i32>().prop_filter("has no opposite", |n| *n > i32::MIN).prop_map(Constant::Integer),
        Just(Constant::Long(2_147_483_648)),
        Just(Constant::Long(-2_147_483_648)),
        prop_oneof![Just(1.5), Just(-1.5), Just(1.0), Just(1e300), Just(5e-324)].prop_map(Constant::Double),
    ]
}

fn name() -> impl Strategy<Value = Box<str>> {
    prop::sample::select(&NAMES[..]).prop_map(Into::into)
}

/// What may be ordered.
fn ordered() -> impl Strategy<Value = Expression> {
    let negative = name().prop_map(|n| Expression::Negative(Box::new(Expression::Property(n))));
    prop_oneof![4 => name().prop_map(Expression::Property), 4 => number().prop_map(Expression::Constant), 1 => negative]
}

fn bounds() -> impl Strategy<Value = (Expression, Expression)> {
    let constants = (-3..4i32, 0..4i32).prop_map(|(low, more)| {
        (Expression::Constant(Constant::Integer(low)), Expression::Constant(Constant::Integer(low + more)))
    });
    prop_oneof![constants, (ordered(), name().prop_map(Expression::Property))]
}

fn predicate() -> impl Strategy<Value = Expression> {
    let op = prop::sample::select(&[Op::Less, Op::LessOrEqual, Op::Greater, Op::GreaterOrEqual][..]);
    let text_op = prop::sample::select(&[TextOp::Contains, TextOp::StartsWith, TextOp::EndsWith][..]);
    let equal = prop::sample::select(&[Op::Equal, Op::NotEqual][..]);
    let operand = || prop_oneof![ordered(), text().prop_map(|t| Expression::Constant(Constant::Text(t)))];
    prop_oneof![
        (ordered(), op, ordered()).prop_map(|(left, op, right)| Expression::Compare {
            left: left.into(),
            op,
            right: right.into()
        }),
        (operand(), equal, operand()).prop_map(|(left, op, right)| Expression::Compare {
            left: left.into(),
            op,
            right: right.into()
        }),
        (operand(), any::<bool>()).prop_map(|(value, not)| Expression::IsNull { value: value.into(), not }),
        (ordered(), any::<bool>(), bounds()).prop_map(|(value, not, (low, high))| Expression::Between {
            value: value.into(),
            not,
            low: low.into(),
            high: high.into()
        }),
        (name(), any::<bool>(), vec(text(), 1..4)).prop_map(|(property, not, list)| Expression::In {
            property,
            not,
            list
        }),
        (operand(), any::<bool>(), text_op, text()).prop_map(|(value, not, op, search)| Expression::Text {
            value: value.into(),
            not,
            op,
            search
        }),
        any::<bool>().prop_map(|b| Expression::Constant(Constant::Boolean(b))),
        Just(Expression::Constant(Constant::Null)),
        name().prop_map(Expression::Property),
    ]
}

fn expression() -> impl Strategy<Value = Expression> {
    predicate().prop_recursive(5, 40, 4, |inner| {
        let truth = any::<bool>().prop_map(|b| Expression::Constant(Constant::Boolean(b)));
        let right = prop_oneof![
            truth,
            name().prop_map(Expression::Property),
            inner.clone().prop_filter("NULL", |e| { *e != Expression::Constant(Constant::Null) })
        ];
        let left = inner.clone().prop_filter("NULL", |e| *e != Expression::Constant(Constant::Null));
        prop_oneof![
            vec(inner.clone(), 2..4).prop_map(Expression::And),
            vec(inner.clone(), 2..4).prop_map(Expression::Or),
            inner.clone().prop_map(|e| Expression::Not(Box::new(e))),
            inner.prop_map(|e| Expression::IsNull { value: Box::new(e), not: false }),
            (left, right).prop_map(|(left, right)| Expression::Compare {
                left: left.into(),
                op: Op::Equal,
                right: right.into()
            }),
        ]
    })
}

fn message() -> impl Strategy<Value = BTreeMap<String, String>> {
    // An empty property is none.
    let value = text().prop_filter("empty", |text| !text.is_empty()).prop_map(String::from);
    prop::collection::btree_map(name().prop_map(String::from), value, 0..4)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn an_expression_reads_back_as_it_was_written(expression in expression()) {
        let text = expression.to_string();
        let read = Sql::parse(&text);
        prop_assert_eq!(read.map(|sql| sql.root), Ok(expression), "{}", text);
    }

    #[test]
    fn expressions_mean_what_the_naive_evaluator_says(expression in expression(), message in message()) {
        let pairs: Vec<(&str, &str)> = message.iter().map(|(k, v)| (k.as_str(), v.as_str())).collect();
        let expected = Naive(message.clone()).three(&expression) == Ok(2);
        prop_assert_eq!(eval::is_true(&expression, &properties(&pairs)), expected, "{} of {:?}", expression, message);
    }

    #[test]
    fn any_text_is_an_answer(text in "\\PC{0,80}") {
        let _ = Sql::parse(&text);
    }

    #[test]
    fn any_row_of_tokens_is_an_answer(tokens in vec(prop::sample::select(&[
        "(", ")", "NOT", "AND", "OR", "a", "'x'", "1", "1.5", "=", "<>", "<", ">=", "IN", ",", "IS", "NULL", "BETWEEN",
        "CONTAINS", "-", "+", "TRUE", "'", "--", "/*", "*/", "9e9", "订",
    ][..]), 0..60)) {
        if let Ok(sql) = Sql::parse(&tokens.join(" ")) {
            sql.matches(&properties(&[("a", "1")]));
            let printed = sql.root.to_string();
            prop_assert_eq!(Sql::parse(&printed).map(|sql| sql.root), Ok(sql.root), "{}", printed);
        }
    }
}
