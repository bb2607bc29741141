-- cjson of Redis' scripts: the same texts, limits and errors, as far as programs depend on them.

local null = ...
local byte, sub, find, format, gsub = string.byte, string.sub, string.find, string.format, string.gsub
local char, concat, floor = string.char, table.concat, math.floor
local type, next, error, tonumber, tostring = type, next, error, tonumber, tostring

local DEPTH_MAX = 1000
local SPARSE_RATIO, SPARSE_SAFE = 2, 10

local ESCAPES = {['"'] = '\\"', ["\\"] = "\\\\", ["/"] = "\\/", ["\b"] = "\\b", ["\f"] = "\\f",
                 ["\n"] = "\\n", ["\r"] = "\\r", ["\t"] = "\\t", ["\127"] = "\\u007f"}
for code = 0, 31 do
  local one = char(code)
  ESCAPES[one] = ESCAPES[one] or format("\\u%04x", code)
end
local UNESCAPES = {['"'] = '"', ["\\"] = "\\", ["/"] = "/", b = "\b", f = "\f", n = "\n",
                   r = "\r", t = "\t"}

local function quoted(text) return '"' .. gsub(text, '[%c"\\/]', ESCAPES) .. '"' end

local function number(value)
  if value ~= value or value == 1 / 0 or value == -1 / 0 then
    error("Cannot serialise number: must not be NaN or Inf", 0)
  end
  return format("%.14g", value)
end

-- How long a table is as an array; nil for one that is none.
local function array_size(value)
  local size, count = 0, 0
  for key in next, value do
    if type(key) ~= "number" or key < 1 or key ~= floor(key) then return nil end
    if key > size then size = key end
    count = count + 1
  end
  if count == 0 then return nil end
  if size > count * SPARSE_RATIO and size > SPARSE_SAFE then
    error("Cannot serialise table: excessively sparse array", 0)
  end
  return size
end

local function encode(value, out, depth)
  local kind = type(value)
  if kind == "string" then out[#out + 1] = quoted(value)
  elseif kind == "number" then out[#out + 1] = number(value)
  elseif kind == "boolean" or kind == "nil" then
    out[#out + 1] = kind == "nil" and "null" or tostring(value)
  elseif value == null then out[#out + 1] = "null"
  elseif kind == "table" then
    if depth > DEPTH_MAX then
      error("Cannot serialise, excessive depth (" .. depth .. ")", 0)
    end
    local size = array_size(value)
    if size then
      for index = 1, size do
        out[#out + 1] = index == 1 and "[" or ","
        encode(value[index], out, depth + 1)
      end
      out[#out + 1] = "]"
      return
    end
    local mark = "{"
    for key, item in next, value do
      if type(key) ~= "string" and type(key) ~= "number" then
        error("Cannot serialise table: table key must be a number or string", 0)
      end
      out[#out + 1] = mark
      out[#out + 1] = type(key) == "number" and '"' .. number(key) .. '":' or quoted(key) .. ":"
      encode(item, out, depth + 1)
      mark = ","
    end
    out[#out + 1] = mark == "{" and "{}" or "}"
  else
    error("Cannot serialise " .. kind .. ": type not supported", 0)
  end
end

local function fail(wanted, text, at)
  local found = at > #text and "T_END" or "invalid token"
  error("Expected " .. wanted .. " but found " .. found .. " at character " .. at, 0)
end

local function skip(text, at) return (find(text, "[^ \t\r\n]", at)) or #text + 1 end

local function utf8(code)
  if code < 0x80 then return char(code) end
  if code < 0x800 then return char(0xc0 + floor(code / 64), 0x80 + code % 64) end
  if code < 0x10000 then
    return char(0xe0 + floor(code / 4096), 0x80 + floor(code / 64) % 64, 0x80 + code % 64)
  end
  return char(0xf0 + floor(code / 262144), 0x80 + floor(code / 4096) % 64,
              0x80 + floor(code / 64) % 64, 0x80 + code % 64)
end

local function escape_at(text, at)
  local kind = sub(text, at + 1, at + 1)
  if UNESCAPES[kind] then return UNESCAPES[kind], at + 2 end
  local hex = kind == "u" and find(text, "^%x%x%x%x", at + 2) and sub(text, at + 2, at + 5)
  if not hex then error("Expected value but found invalid escape code at character " .. at, 0) end
  local code = tonumber(hex, 16)
  if code >= 0xd800 and code < 0xdc00 and find(text, "^\\u[dD][c-fC-F]%x%x", at + 6) then
    local low = tonumber(sub(text, at + 8, at + 11), 16)
    return utf8(0x10000 + (code - 0xd800) * 1024 + low - 0xdc00), at + 12
  end
  return utf8(code), at + 6
end

-- `at` is the quote.
local function string_at(text, at)
  local start, out = at + 1, nil
  while true do
    local here = find(text, '[%c"\\]', start)
    local one = here and byte(text, here)
    if one == 34 then
      local last = sub(text, start, here - 1)
      if not out then return last, here + 1 end
      out[#out + 1] = last
      return concat(out), here + 1
    elseif one == 92 then
      out = out or {}
      out[#out + 1] = sub(text, start, here - 1)
      out[#out + 1], start = escape_at(text, here)
    elseif not here then
      error("Expected value but found unexpected end of string at character " .. #text + 1, 0)
    elseif one < 32 or one == 127 then
      if one ~= 127 then
        error("Expected value but found invalid token at character " .. here, 0)
      end
      out = out or {}
      out[#out + 1], start = sub(text, start, here), here + 1
    end
  end
end

local WORDS = {[116] = {"true", true}, [102] = {"false", false}, [110] = {"null", null}}

local function value_at(text, at, depth)
  at = skip(text, at)
  if depth > DEPTH_MAX then
    error("Found too many nested data structures (" .. depth .. ")", 0)
  end
  local kind = byte(text, at)
  if kind == 34 then return string_at(text, at) end
  if kind == 123 then -- {
    local found = {}
    at = skip(text, at + 1)
    if byte(text, at) == 125 then return found, at + 1 end
    while true do
      if byte(text, at) ~= 34 then fail("object key string", text, at) end
      local key
      key, at = string_at(text, at)
      at = skip(text, at)
      if byte(text, at) ~= 58 then fail("colon", text, at) end
      found[key], at = value_at(text, at + 1, depth + 1)
      at = skip(text, at)
      local mark = byte(text, at)
      if mark == 125 then return found, at + 1 end
      if mark ~= 44 then fail("comma or object end", text, at) end
      at = skip(text, at + 1)
    end
  elseif kind == 91 then -- [
    local found, size = {}, 0
    at = skip(text, at + 1)
    if byte(text, at) == 93 then return found, at + 1 end
    while true do
      size = size + 1
      found[size], at = value_at(text, at, depth + 1)
      at = skip(text, at)
      local mark = byte(text, at)
      if mark == 93 then return found, at + 1 end
      if mark ~= 44 then fail("comma or array end", text, at) end
      at = at + 1
    end
  end
  local word = WORDS[kind]
  if word then
    if sub(text, at, at + #word[1] - 1) == word[1] then return word[2], at + #word[1] end
  else
    local first, last = find(text, "^[-+]?[%w%.][%w%.%-%+]*", at)
    local found = first and tonumber(sub(text, first, last))
    if found then return found, last + 1 end
  end
  fail("value", text, at)
end

local json = {null = null, _NAME = "cjson", _VERSION = "2.1.0"}

function json.encode(value)
  local out = {}
  encode(value, out, 1)
  return concat(out)
end

function json.decode(text)
  text = tostring(text)
  local value, at = value_at(text, 1, 0)
  at = skip(text, at)
  if at <= #text then fail("the end", text, at) end
  return value
end

-- Redis' settings of it are few scripts' concern; what they would change stays as it is.
for _, name in next, {"encode_sparse_array", "encode_max_depth", "decode_max_depth",
                      "encode_number_precision", "encode_keep_buffer", "encode_invalid_numbers",
                      "decode_invalid_numbers"} do
  json[name] = function() end
end

return json
