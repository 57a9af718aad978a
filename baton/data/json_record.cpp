// SPDX-License-Identifier: Apache-2.0
#include "baton/data/json_record.h"

#include <cstdint>
#include <utility>

#include <nlohmann/json.hpp>

#include "baton/base/error.h"

namespace baton {
namespace {

using nlohmann::json;

// A wanted field of the object. The last one counts where a name stands twice.
struct Field {
  std::string name;
  std::string value;
  const char* type = nullptr; // as a message names it; null where the object has no such field
};

// Takes the wanted strings from the parser's events; nothing else of the object is kept.
class RecordHandler final : public nlohmann::json_sax<json> {
 public:
  explicit RecordHandler(const std::string& field) {
    fields_[0].name = field;
    fields_[1].name = "prompt";
    fields_[2].name = "completion";
  }

  const Field& text() const { return fields_[0]; }
  const Field& prompt() const { return fields_[1]; }
  const Field& completion() const { return fields_[2]; }
  /// What stands in place of an object, or null.
  const char* other_type() const { return other_type_; }
  /// Byte of the line, from 1, at which it stops being JSON.
  std::size_t error_byte() const { return error_byte_; }

  bool null() override { return value("null"); }
  bool boolean(bool /*value*/) override { return value("boolean"); }
  bool number_integer(number_integer_t /*value*/) override { return value("number"); }
  bool number_unsigned(number_unsigned_t /*value*/) override { return value("number"); }
  bool number_float(number_float_t /*value*/, const string_t& /*text*/) override {
    return value("number");
  }
  bool binary(binary_t& /*value*/) override { return value("binary"); }
  bool start_object(std::size_t /*size*/) override {
    if (depth_ > 0) {
      wanted("object");
    }
    ++depth_;
    return true;
  }
  bool start_array(std::size_t /*size*/) override {
    wanted("array");
    ++depth_;
    return true;
  }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }

  bool string(string_t& text) override {
    if (Field* field = wanted("string")) {
      field->value = std::move(text);
    }
    return true;
  }

  bool key(string_t& name) override {
    if (depth_ == 1) {
      field_ = nullptr;
      for (Field& field : fields_) {
        if (field.name == name) {
          field_ = &field;
          break;
        }
      }
    }
    return true;
  }

  bool parse_error(
      std::size_t byte,
      const std::string& /*token*/,
      const nlohmann::detail::exception& /*error*/) override {
    error_byte_ = byte;
    return false;
  }

 private:
  // The field that a value of this type belongs to, or null.
  Field* wanted(const char* type) {
    if (depth_ == 0) {
      other_type_ = type;
    }
    if (depth_ != 1 || field_ == nullptr) {
      return nullptr;
    }
    field_->type = type;
    return field_;
  }

  bool value(const char* type) {
    wanted(type);
    return true;
  }

  bool close() {
    --depth_;
    return true;
  }

  Field fields_[3];
  Field* field_ = nullptr; // of the key that was read last, at depth 1
  const char* other_type_ = nullptr;
  std::size_t error_byte_ = 0;
  std::int64_t depth_ = 0;
};

void require_string(const Field& field) {
  if (std::string_view(field.type) != "string") {
    throw Error("\"" + field.name + "\" must be a string, not " + field.type);
  }
}

} // namespace

JsonRecord parse_json_record(std::string_view line, const std::string& field) {
  RecordHandler handler(field);
  if (!json::sax_parse(line, &handler)) {
    throw Error("not valid JSON at byte " + std::to_string(handler.error_byte()) + " of the line");
  }
  if (handler.other_type() != nullptr) {
    throw Error(std::string("must be a JSON object, not ") + handler.other_type());
  }
  JsonRecord record;
  if (handler.text().type != nullptr) {
    require_string(handler.text());
    record.text = handler.text().value;
    return record;
  }
  if (handler.prompt().type == nullptr || handler.completion().type == nullptr) {
    throw Error("has neither \"" + field + "\" nor \"prompt\" and \"completion\"");
  }
  require_string(handler.prompt());
  require_string(handler.completion());
  record.prompt = handler.prompt().value;
  record.completion = handler.completion().value;
  return record;
}

} // namespace baton
