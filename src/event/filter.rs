use crate::event::Event;

/// The events of a log that a read wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Filter {
    All,
    /// Events of any of these types; the list is not empty.
    Types(Vec<String>),
    Stream(String),
}

impl Filter {
    /// Selects the events of some types; an empty list selects all events.
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
