use crate::event::Event;

/// Which events of a log a read is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    All,
    /// Events of any of these types; not empty.
    Types(Vec<String>),
    Stream(String),
}

impl Filter {
    /// No types mean all.
    pub fn types(types: Vec<String>) -> Filter {
        if types.is_empty() { Filter::All } else { Filter::Types(types) }
    }

    pub fn matches(&self, event: &Event) -> bool {
        self.matches_what_is_of(&event.event_type, &event.stream)
    }

    pub fn matches_what_is_of(&self, event_type: &str, stream: &str) -> bool {
        match self {
            Filter::All => true,
            Filter::Types(types) => types.iter().any(|wanted| wanted == event_type),
            Filter::Stream(wanted) => wanted == stream,
        }
    }
}
